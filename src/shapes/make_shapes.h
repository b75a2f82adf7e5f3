#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace tessera::shapes {

struct ShapesOptions {
  std::filesystem::path output;  ///< folder; made where absent
  std::int64_t train_count = 8000;
  std::int64_t held_out_count = 512;
  std::int64_t image_size = 84;    ///< pixels, 32 … 1024
  std::int64_t shard_size = 1000;  ///< scenes a tar
  std::uint64_t seed = 0;
};

struct ShapesFiles {
  std::vector<std::filesystem::path> train;
  std::vector<std::filesystem::path> held_out;
};

/// Draws the "shapes" set: scenes of two coloured shapes of two sizes in a spatial relation, PNG, each with
/// true captions (scene_captions), as WebDataset shards train-NNNNNN.tar and val-NNNNNN.tar. A sample's .json
/// holds `image_id`, `captions` and `scene` ({"objects": [{"size", "color", "shape"}, two of them],
/// "relation": first to second}).
///
/// No held-out description, told from either object, occurs in training or twice. There are 2,448
/// descriptions: a larger training part draws them again, each time anew, in a shuffled order of their own.
/// Pictures of one description have the same image_id, so that losses know that each other's captions are
/// true of them. The files are a function of the options, bit for bit.
/// @throws Error for options out of range, a folder that can't be written, or one that holds further shards
///         of a larger set (a pattern over the folder would mix them in)
ShapesFiles make_shapes(const ShapesOptions& options);

}  // namespace tessera::shapes
