#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "inference/trained_model.h"
#include "model/features.h"

namespace tessera::inference {

/// Texts as messages show them (core/error.h, quoted).
std::vector<std::string> quoted_texts(const std::vector<std::string>& texts);

/// An image file as the model sees it: upright, its shorter edge resized to `size`, the centre cut out.
/// @return [3, size, size] uint8 RGB
/// @throws Error naming the file that can't be opened or is no sound JPEG, PNG or WebP image
at::Tensor read_image(const std::filesystem::path& file, std::int64_t size);

/// The unfused image pass, without gradient.
/// @param pixels [B, 3, H, W] uint8 RGB on any device
/// @param names  B, for messages; empty: they are counted from 0
/// @throws Error naming the image whose embedding is not finite
model::ImageFeatures encode_images(const TrainedModel& trained, const at::Tensor& pixels,
                                   const std::vector<std::string>& names = {});

/// The unfused text pass, without gradient, over texts cut to language.max_tokens. An empty text is bos eos.
/// @param texts  at least one
/// @throws Error with the text whose embedding is not finite
model::TextFeatures encode_texts(const TrainedModel& trained, const std::vector<std::string>& texts);

}  // namespace tessera::inference
