#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "inference/trained_model.h"
#include "memory/memory_store.h"

namespace tessera::inference {

// A model with a memory that pairs are written into after training: what `tessera memory` does. Codes go into
// a MemoryStore, a query's code comes out of it as a read-out, and the read-out is decoded into words without
// any image, so that what is said of a picture can only have come through the memory.

/// Codes of pairs, of images alone or of texts alone.
/// @param pixels   [B, 3, S, S] uint8 RGB; undefined: texts alone
/// @param captions B; empty: images alone
/// @param names    B, of the images, for messages; empty: they are counted from 0
/// @return [B, C] float32 on the CPU
/// @throws Error naming the image or text whose embedding or code is not finite
at::Tensor memory_codes(const TrainedModel& trained, const at::Tensor& pixels,
                        const std::vector<std::string>& captions, const std::vector<std::string>& names = {});

/// What the decoder makes of codes or read-outs [N, C], greedily and without an image; N texts.
std::vector<std::string> decode_codes(const TrainedModel& trained, const at::Tensor& codes);

/// An empty memory for the codes of this model.
/// @throws Error where the model was trained without the memory
memory::MemoryStore new_memory(const TrainedModel& trained);
/// A memory from its file.
/// @throws Error naming the file where it was written with another model, or is no memory
memory::MemoryStore load_memory(const TrainedModel& trained, const std::filesystem::path& file);

/// What comes back for a query.
struct Recall {
  std::string answer;  ///< the read-out in words
  memory::Recollection recollection;
};

/// @param query [C], of memory_codes
/// @throws Error where the memory is empty
Recall recall(const TrainedModel& trained, const memory::MemoryStore& store, const at::Tensor& query,
              std::int64_t nearest = 3);

}  // namespace tessera::inference
