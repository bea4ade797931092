// Whether unpacked chunks are whole, where the messages in them lie, and their numbers side by side.
//
// crc:    a block takes a chunk, a thread a piece of it: some 4 KiB of a chunk of 1 MiB, of which L1 holds a line a
//         thread. The pieces' CRCs are put together by a sum (xor) over the block.
// locate: a block takes a piece (a channel's entries of one chunk), a thread an entry at a time. The header of a record
//         is read byte by byte: records lie at any address.
// heads:  a block a message.
// decode: a warp takes a message, a lane a byte of each run of bytes: reads of one message are side by side, and so are
//         the writes of its row.
// Shared: crc: the table of 256 words, then a word a thread. The rest: nothing; the layout, some hundred bytes, is the same for all and stays in L1.
// Bytes:  each header and each byte that the layout names once; of a log's messages about half of what was unpacked,
//         some thirtieth of what unpacking moves.
#include <algorithm>

#include "messages.h"

#include "robocache/messages/crc32.h"
#include "robocache/messages/layout.h"

namespace robocache {
namespace {

using messages::Piece;
using messages::Place;

constexpr int kThreads = 128, kWarp = 32;
constexpr int kPieces = 256;  // of a chunk; each thread makes one entry of the table of as many

__global__ void __launch_bounds__(kPieces)
    crc_kernel(const uint8_t* records, const int64_t* chunks, int64_t count, int64_t* crcs) {
  __shared__ uint32_t table[kPieces], sums[kPieces];
  table[threadIdx.x] = messages::crc_entry(threadIdx.x);
  __syncthreads();
  const int64_t size = chunks[count + blockIdx.x], each = (size + kPieces - 1) / kPieces;
  const int64_t begin = min(size, int64_t(threadIdx.x) * each), end = min(size, begin + each);
  const uint32_t crc = messages::crc_of(records + chunks[blockIdx.x] + begin, end - begin, table);
  sums[threadIdx.x] = messages::followed_by(crc, size - end);
  for (int half = kPieces / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] ^= sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) crcs[blockIdx.x] = sums[0];
}

__global__ void __launch_bounds__(kThreads)
    locate_kernel(const uint8_t* records, const uint64_t* offsets, const Piece* pieces, int64_t* places, int64_t total,
                  int* bad) {
  const Piece piece = pieces[blockIdx.x];
  for (int64_t i = threadIdx.x; i < piece.count; i += kThreads) {
    Place place{0, 0, 0, 0};
    if (!messages::locate(records, offsets, piece, i, place)) {
      place = {0, 0, 0, 0};  // so that who reads it stays within the records
      bad[blockIdx.x] = 1;
    }
    int64_t* out = places + piece.first + i;
    out[0] = place.start, out[total] = place.size, out[2 * total] = place.log_time, out[3 * total] = place.publish_time;
  }
}

__global__ void __launch_bounds__(kThreads)
    heads_kernel(const uint8_t* records, const int64_t* places, int64_t total, const int64_t* numbers, int64_t nbytes,
                 uint8_t* heads) {
  const int64_t start = places[numbers[blockIdx.x]], size = places[total + numbers[blockIdx.x]];
  uint8_t* head = heads + blockIdx.x * nbytes;
  for (int64_t k = threadIdx.x; k < nbytes; k += kThreads) head[k] = k < size ? records[start + k] : 0;
}

__global__ void __launch_bounds__(kThreads, 8)  // eight: left alone, the compiler aims at 32 registers and spills
    decode_kernel(const uint8_t* records, const int64_t* places, int64_t total, int64_t first, int64_t count,
                  const int64_t* words, uint8_t* out, int* bad) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  if (row >= count) return;
  const uint8_t* pattern = records + places[first];
  const uint8_t* message = records + places[first + row];
  const bool good = messages::alike(words, message, places[total + first + row], pattern, lane, kWarp);
  if (!__all_sync(~0u, good)) {  // nothing of it is read: it may be shorter
    if (lane == 0) *bad = 1;
    return;
  }
  messages::take(words, message, row, out, lane, kWarp);
}

}  // namespace

void cuda::locate_messages(const uint8_t* records, const uint64_t* offsets, const int64_t* pieces, int64_t count,
                           int64_t* places, int64_t total, int* bad, cudaStream_t stream) {
  if (!count) return;
  locate_kernel<<<unsigned(count), kThreads, 0, stream>>>(records, offsets, reinterpret_cast<const Piece*>(pieces),
                                                          places, total, bad);
}

void cuda::crc32_chunks(const uint8_t* records, const int64_t* chunks, int64_t count, int64_t* crcs,
                        cudaStream_t stream) {
  if (!count) return;
  crc_kernel<<<unsigned(count), kPieces, 0, stream>>>(records, chunks, count, crcs);
}

void cuda::copy_heads(const uint8_t* records, const int64_t* places, int64_t total, const int64_t* messages,
                      int64_t count, int64_t nbytes, uint8_t* heads, cudaStream_t stream) {
  if (!count) return;
  heads_kernel<<<unsigned(count), kThreads, 0, stream>>>(records, places, total, messages, nbytes, heads);
}

void cuda::decode_messages(const uint8_t* records, const int64_t* places, int64_t total, int64_t first, int64_t count,
                           const int64_t* words, uint8_t* out, int* bad, cudaStream_t stream) {
  if (!count) return;
  const int64_t blocks = (count * kWarp + kThreads - 1) / kThreads;
  decode_kernel<<<unsigned(blocks), kThreads, 0, stream>>>(records, places, total, first, count, words, out, bad);
}

}  // namespace robocache
