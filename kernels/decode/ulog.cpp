#include "decode/ulog.h"

#include <algorithm>
#include <array>

namespace robocache::decode {
namespace {

constexpr int64_t kHead = 3;      // length 2, type 1
constexpr int64_t kId = 2;        // of data, in front of the payload
constexpr int64_t kAddition = 3;  // instance 1, id 2, in front of the message's name

// kTold: what tells of the file and is kept: formats, infos, parameters, subscriptions, dropouts.
enum class Kind : uint8_t { kUnknown, kOther, kTold, kAdd, kData };

constexpr std::array<Kind, 256> kKinds = [] {
  std::array<Kind, 256> kinds{};
  for (const char c : {'B', 'M', 'Q', 'R', 'L', 'C', 'S'}) kinds[static_cast<uint8_t>(c)] = Kind::kOther;
  for (const char c : {'F', 'I', 'P', 'O'}) kinds[static_cast<uint8_t>(c)] = Kind::kTold;
  kinds['A'] = Kind::kAdd;
  kinds['D'] = Kind::kData;
  return kinds;
}();

// take(kind, at, content, size) for each whole message of a window. Where it stopped, and whether at a message of a
// type that does not exist.
template <class Take>
std::pair<int64_t, bool> each(const uint8_t* window, int64_t length, int64_t base, const std::vector<int64_t>& ends,
                              const Take& take) {
  const int64_t stop = base + length;
  int64_t at = base;
  size_t next = 0;
  while (next + 1 < ends.size() && ends[next] < base) ++next;
  while (at <= stop - kHead) {
    const uint8_t* message = window + (at - base);
    const int64_t size = load_little<uint16_t>(message), end = at + kHead + size;
    const Kind kind = kKinds[message[2]];
    if (end > ends[next] && next + 1 < ends.size()) {  // what was appended after a crash begins here
      at = ends[next++];
      continue;
    }
    if (kind == Kind::kUnknown) return {at, true};
    if (end > stop) break;
    take(kind, at, message + kHead, size);
    at = end;
  }
  return {at, false};
}

}  // namespace

// Make ids stand for what they do at byte `base`.
void UlogWalk::seek(int64_t base) {
  if (current_ && all_[current_ - 1].at >= base) {
    std::fill(number_.begin(), number_.end(), -1);
    current_ = 0;
  }
  while (current_ < all_.size() && all_[current_].at < base) add();
}

void UlogWalk::add() {
  number_[all_[current_].id] = static_cast<int32_t>(current_);
  ++current_;
}

// Whose data that is; none where its id was not added.
UlogWalk::Subscription* UlogWalk::of(const uint8_t* content, int64_t size) {
  const int32_t number = size > kId ? number_[load_little<uint16_t>(content)] : -1;
  return number < 0 ? nullptr : &all_[static_cast<size_t>(number)];
}

UlogWalk::Step UlogWalk::step(const uint8_t* window, int64_t length, int64_t base) {
  std::vector<int64_t> numbers;
  seek(base);
  const auto take = [&](Kind kind, int64_t at, const uint8_t* content, int64_t size) {
    if (kind == Kind::kData) {
      Subscription* one = of(content, size);
      if (!one) return;
      ++one->count;
      if (one->seen != base) numbers.push_back(one - all_.data());
      one->seen = base;
    } else if (kind != Kind::kOther) {
      told_.insert(told_.end(), content - kHead, content + size);
      if (kind == Kind::kAdd && size > kAddition) {
        all_.push_back({at, load_little<uint16_t>(content + 1)});
        add();
      }
    }
  };
  const auto [stop, unknown] = each(window, length, base, ends_, take);
  return {stop, unknown, std::move(numbers)};
}

std::vector<UlogWalk::Data> UlogWalk::find(const uint8_t* window, int64_t length, int64_t base,
                                           const std::vector<int64_t>& numbers) {
  std::vector<Data> found(numbers.size());
  for (size_t k = 0; k < numbers.size(); ++k) all_[static_cast<size_t>(numbers[k])].asked = static_cast<int32_t>(k);
  seek(base);
  const auto take = [&](Kind kind, int64_t at, const uint8_t* content, int64_t size) {
    if (kind == Kind::kData) {
      const Subscription* one = of(content, size);
      if (!one || one->asked < 0) return;
      Data& data = found[static_cast<size_t>(one->asked)];
      data.start.push_back(content + kId - window);
      data.size.push_back(size - kId);
    } else if (kind == Kind::kAdd && current_ < all_.size() && all_[current_].at == at) {
      add();
    }
  };
  each(window, length, base, ends_, take);
  for (const int64_t number : numbers) all_[static_cast<size_t>(number)].asked = -1;
  return found;
}

std::vector<int64_t> UlogWalk::counts() const {
  std::vector<int64_t> found;
  for (const Subscription& one : all_) found.push_back(one.count);
  return found;
}

}  // namespace robocache::decode
