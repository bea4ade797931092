// robocache::crc32_chunks, robocache::locate_messages and robocache::decode_messages.
#include <ATen/ops/zeros.h>

#include "bindings/common.h"
#define RC_ISA isa_baseline
#include "robocache/messages/crc32.h"
#include "robocache/messages/layout.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/messages/messages.h"
#endif

namespace robocache {
namespace {

using messages::Piece;
using messages::Place;

constexpr int64_t kPieceWords = 5, kPlaceWords = 4;

Tensor checked(const Tensor& x, at::ScalarType type, int64_t dim, const Tensor& records, const Argument& argument) {
  TORCH_CHECK_VALUE(x.scalar_type() == type && x.dim() == dim && x.device() == records.device(), argument, " is ",
                    x.scalar_type(), " ", x.sizes(), " on ", x.device(), "; ", type, " of ", dim, " axes on ",
                    records.device(), " is right");
  return x.contiguous();
}

Tensor crc32_chunks(const Tensor& records, const Tensor& chunks) {
  const char* op = "crc32_chunks";
  const Tensor r = checked(records, at::kByte, 1, records, {op, "records"});
  const Tensor c = checked(chunks, at::kLong, 2, records, {op, "chunks"});
  TORCH_CHECK_VALUE(c.size(0) == 2, op, ": chunks are [2, n], got ", c.sizes());
  const int64_t count = c.size(1);
  const Tensor crcs = allocate({count}, c.options());
  const uint8_t* bytes = r.const_data_ptr<uint8_t>();
  const int64_t* where = c.const_data_ptr<int64_t>();
#ifdef ROBOCACHE_CUDA
  if (r.is_cuda()) {
    on_device(r.device(), [&](auto stream) {
      cuda::crc32_chunks(bytes, where, count, crcs.mutable_data_ptr<int64_t>(), stream);
    });
    return crcs;
  }
#endif
  uint32_t table[256];
  for (uint32_t k = 0; k < 256; ++k) table[k] = messages::crc_entry(k);
  for (int64_t k = 0; k < count; ++k) {  // in two pieces, as a device has many
    const int64_t size = where[count + k], half = size / 2;
    const uint8_t* data = bytes + where[k];
    crcs.mutable_data_ptr<int64_t>()[k] = messages::followed_by(messages::crc_of(data, half, table), size - half) ^
                                          messages::crc_of(data + half, size - half, table);
  }
  return crcs;
}

std::tuple<Tensor, Tensor, Tensor> locate_messages(const Tensor& records, const Tensor& offsets, const Tensor& pieces,
                                                   const Tensor& firsts, int64_t head) {
  const char* op = "locate_messages";
  const Tensor r = checked(records, at::kByte, 1, records, {op, "records"});
  const Tensor o = checked(offsets, at::kLong, 1, records, {op, "offsets"});
  const Tensor p = checked(pieces, at::kLong, 2, records, {op, "pieces"});
  const Tensor f = checked(firsts, at::kLong, 1, records, {op, "firsts"});
  TORCH_CHECK_VALUE(p.size(1) == kPieceWords && head >= 0, op, ": pieces are [n, 5], got ", p.sizes());
  const int64_t total = o.size(0), count = p.size(0);
  const Tensor places = allocate({kPlaceWords, total}, o.options());
  const Tensor heads = allocate({f.size(0), head}, r.options());
  const Tensor bad = at::zeros({count}, r.options().dtype(at::kInt));
  const uint8_t* bytes = r.const_data_ptr<uint8_t>();
  const uint64_t* entries = reinterpret_cast<const uint64_t*>(o.const_data_ptr<int64_t>());
  int64_t* out = places.mutable_data_ptr<int64_t>();
#ifdef ROBOCACHE_CUDA
  if (r.is_cuda()) {
    on_device(r.device(), [&](auto stream) {
      cuda::locate_messages(bytes, entries, p.const_data_ptr<int64_t>(), count, out, total,
                            bad.mutable_data_ptr<int>(), stream);
      cuda::copy_heads(bytes, out, total, f.const_data_ptr<int64_t>(), f.size(0), head,
                       heads.mutable_data_ptr<uint8_t>(), stream);
    });
    return {places, heads, bad};
  }
#endif
  for (int64_t k = 0; k < count; ++k) {
    const Piece& piece = reinterpret_cast<const Piece*>(p.const_data_ptr<int64_t>())[k];
    for (int64_t i = 0; i < piece.count; ++i) {
      Place place{0, 0, 0, 0};
      if (!messages::locate(bytes, entries, piece, i, place)) {
        place = {0, 0, 0, 0};
        bad.mutable_data_ptr<int>()[k] = 1;
      }
      int64_t* at = out + piece.first + i;
      at[0] = place.start, at[total] = place.size, at[2 * total] = place.log_time, at[3 * total] = place.publish_time;
    }
  }
  for (int64_t k = 0; k < f.size(0); ++k) {
    const int64_t message = f.const_data_ptr<int64_t>()[k];
    for (int64_t i = 0; i < head; ++i) {
      heads.mutable_data_ptr<uint8_t>()[k * head + i] = i < out[total + message] ? bytes[out[message] + i] : 0;
    }
  }
  return {places, heads, bad};
}

std::tuple<Tensor, Tensor> decode_messages(const Tensor& records, const Tensor& places, int64_t first, int64_t count,
                                           const Tensor& words, int64_t nbytes) {
  const char* op = "decode_messages";
  const Tensor r = checked(records, at::kByte, 1, records, {op, "records"});
  const Tensor p = checked(places, at::kLong, 2, records, {op, "places"});
  const Tensor w = checked(words, at::kLong, 1, records, {op, "words"});
  TORCH_CHECK_VALUE(p.size(0) == kPlaceWords && 0 <= first && 0 <= count && first + count <= p.size(1), op,
                    ": messages [", first, ", ", first + count, ") of places ", p.sizes());
  TORCH_CHECK_VALUE(w.size(0) >= messages::kHead && nbytes >= 0, op, ": ", w.size(0), " words, ", nbytes, " bytes");
  const Tensor out = allocate({nbytes}, r.options());
  const Tensor bad = at::zeros({1}, r.options().dtype(at::kInt));
  const uint8_t* bytes = r.const_data_ptr<uint8_t>();
  const int64_t* place = p.const_data_ptr<int64_t>();
  const int64_t* code = w.const_data_ptr<int64_t>();
  uint8_t* made = out.mutable_data_ptr<uint8_t>();
  const int64_t total = p.size(1);
#ifdef ROBOCACHE_CUDA
  if (r.is_cuda()) {
    on_device(r.device(), [&](auto stream) {
      cuda::decode_messages(bytes, place, total, first, count, code, made, bad.mutable_data_ptr<int>(), stream);
    });
    return {out, bad};
  }
#endif
  for (int64_t row = 0; row < count; ++row) {
    const uint8_t* message = bytes + place[first + row];
    if (!messages::alike(code, message, place[total + first + row], bytes + place[first], 0, 1)) {
      *bad.mutable_data_ptr<int>() = 1;
      break;
    }
    messages::take(code, message, row, made, 0, 1);
  }
  return {out, bad};
}

}  // namespace
}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def("crc32_chunks(Tensor records, Tensor chunks) -> Tensor");
  m.def("locate_messages(Tensor records, Tensor offsets, Tensor pieces, Tensor firsts, int head) -> "
        "(Tensor, Tensor, Tensor)");
  m.def("decode_messages(Tensor records, Tensor places, int first, int count, Tensor words, int nbytes) -> "
        "(Tensor, Tensor)");
}

#define RC_MESSAGES_KERNELS(m)                            \
  m.impl("crc32_chunks", &robocache::crc32_chunks);       \
  m.impl("locate_messages", &robocache::locate_messages); \
  m.impl("decode_messages", &robocache::decode_messages);

TORCH_LIBRARY_IMPL(robocache, CPU, m) { RC_MESSAGES_KERNELS(m) }
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { RC_MESSAGES_KERNELS(m) }
#endif
