// Work on several threads for the length of one call: starting one takes about 20 us, and there is no pool to break in
// a forked data-loader worker or to fight torch's own threads for cores.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace robocache::cpu {

// Work is handed out in pieces of about 50 us (for alignment this many output elements), and a thread is started for
// every 16 pieces (or `pieces_per_thread` where pieces are larger).
constexpr int64_t kPiece = 1 << 15;
constexpr int64_t kPiecesPerThread = 16;

// work(p) for every p of [0, pieces), on up to `most` threads. It must not throw.
template <class Work>
void in_threads(int64_t pieces, int64_t most, const Work& work, int64_t pieces_per_thread = kPiecesPerThread) {
  const int64_t threads = std::min<int64_t>(most, pieces / pieces_per_thread + 1);
  std::atomic<int64_t> taken{0};
  const auto take = [&] {
    for (int64_t p; (p = taken.fetch_add(1)) < pieces;) work(p);
  };
  std::vector<std::thread> helpers;
  helpers.reserve(size_t(threads - 1));
  try {
    while (int64_t(helpers.size()) < threads - 1) helpers.emplace_back(take);
  } catch (const std::system_error&) {  // no more threads are to be had (a container's limit): those there are do it
  }
  take();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace robocache::cpu
