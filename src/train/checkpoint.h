#pragma once

#include <c10/core/Device.h>

#include <filesystem>

#include "train/adamw.h"
#include "train/position.h"
#include "train/task.h"

namespace tessera::train {

/// Writes the state of a run into an empty folder: what the task saves (for a model, model/weights.h),
/// `optimizer` and `state`.
void write_checkpoint(const std::filesystem::path& folder, const Task& task, const AdamW& optimizer,
                      const Position& position, c10::Device device);

/// Reads the position alone, so that the optimizer of its phase can be built before the rest is read.
/// @throws Error naming the file where the folder is no checkpoint, or of a later format
Position read_position(const std::filesystem::path& folder);

/// Reads weights, optimizer, the task's and the random state into the objects of a run; after this the run
/// goes on as if it had not stopped.
void read_checkpoint(const std::filesystem::path& folder, Task& task, AdamW& optimizer, c10::Device device);

}  // namespace tessera::train
