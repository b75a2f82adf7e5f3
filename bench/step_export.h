#pragma once

#include <filesystem>

#include "bench/step_under_test.h"

namespace tessera::bench {

/// Writes what another implementation needs to compute the same step, and what came out of ours, into a new
/// or empty folder:
///   config.yaml           the configuration, with its own dropouts and noise
///   weights.safetensors   every parameter and buffer under its name in the model
///   queue.safetensors     where there is a queue: embeddings, ids and payload of every slot, and which are
///                         filled, as all batches find it
///   batch-NN.safetensors  pixels, input_ids, attention_mask, image_ids; the Gumbel noise of the negatives
///                         and the negatives drawn with it; which queries of the memory keep image and text;
///                         which captions see a read-out
///   expected.json         losses by part and gradient norms by group of parameters, of every batch at these
///                         weights; the optimizer's groups
/// The step must have been built without dropout and memory noise, and in float32; of a queue every pair must
/// count (max_shift 0).
/// @throws Error where it wasn't, or a file can't be written
void export_step(StepUnderTest& step, const Config& original, const std::filesystem::path& folder);

}  // namespace tessera::bench
