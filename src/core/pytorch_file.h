#pragma once

#include <filesystem>

#include "core/safetensors.h"

namespace tessera {

/// Reads the tensors of a file that torch.save wrote (a zip archive: torch >= 1.6; pytorch_model.bin, .pth,
/// .pt), memory-mapped, and executes nothing of it. What is known: dict, OrderedDict, tensors and
/// nn.Parameter on storages of any element type of safetensors' list, beside plain values (numbers, strings,
/// lists, …). Any other Python name in the file is refused by its name.
///
/// Tensors are views of the mapped file, kept alive by the tensor, with the strides and offsets of the file;
/// treat them as read-only (copy before writing). Tensors on one storage share its bytes.
///
/// Which dict is the state dict: the outermost one, where it holds tensors itself. Else, where some of its
/// values are dicts of tensors, the one under "model", "state_dict", "model_state_dict" or "teacher" (what
/// DINOv2 is evaluated with), or, with none of these names, the only one. Single numbers (a loss that was
/// saved as a tensor) don't make the outermost dict a state dict beside such a one. Where that leaves no one
/// choice, the file is refused with the names. Values of the state dict that are no tensors are left out.
///
/// @throws Error naming the file and, where there is one, the tensor: for what is damaged (nothing in the
/// file is trusted: sizes, offsets, strides, memo, nesting), written on a machine of the other byte order,
/// expanded (more elements than the storage has), conjugated, or older than the zip format
TensorMap read_pytorch_file(const std::filesystem::path& path);

}  // namespace tessera
