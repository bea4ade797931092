// The doors to messages on the GPU, one launch each.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace robocache::cuda {

// places: int64 [4, total], the messages of all pieces; pieces: int64 [count, 5]; bad: of each piece, set where one is
// not as it should be.
void locate_messages(const uint8_t* records, const uint64_t* offsets, const int64_t* pieces, int64_t count,
                     int64_t* places, int64_t total, int* bad, cudaStream_t stream);

// The CRC-32 of chunks: chunks: int64 [2, count], where each begins and how many bytes it has.
void crc32_chunks(const uint8_t* records, const int64_t* chunks, int64_t count, int64_t* crcs, cudaStream_t stream);

// `nbytes` of each of some messages (by their numbers), zeros behind those that are shorter.
void copy_heads(const uint8_t* records, const int64_t* places, int64_t total, const int64_t* messages, int64_t count,
                int64_t nbytes, uint8_t* heads, cudaStream_t stream);

// Messages [first, first + count), laid out as `words` has it; bad: set where one is not laid out as the first.
void decode_messages(const uint8_t* records, const int64_t* places, int64_t total, int64_t first, int64_t count,
                     const int64_t* words, uint8_t* out, int* bad, cudaStream_t stream);

}  // namespace robocache::cuda
