#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace tessera::data {

struct ShapesOptions {
  std::filesystem::path output;  ///< folder; made where absent
  std::int64_t train_count = 4000;
  std::int64_t held_out_count = 512;
  std::int64_t image_size = 84;    ///< pixels, 32 … 1024
  std::int64_t shard_size = 1000;  ///< scenes a tar
  std::uint64_t seed = 0;
};

struct ShapesFiles {
  std::vector<std::filesystem::path> train;
  std::vector<std::filesystem::path> held_out;
};

/// Draws the "shapes" set: scenes of two coloured shapes of two sizes in a spatial relation, PNG, with five
/// true captions each, as WebDataset shards train-NNNNNN.tar and val-NNNNNN.tar. A sample's .json holds
/// `image_id`, `captions` and `scene` ({"objects": [{"size", "color", "shape"}, two of them], "relation":
/// first to second}). No description occurs twice, told from either object, in either part: no held-out scene
/// was ever described in training, and every caption belongs to one scene. The files are a function of the
/// options, bit for bit.
/// @throws Error for options out of range, more scenes than there are descriptions (12,480), a folder that
/// can't be
///         written, or one that holds further shards of a larger set (a pattern over the folder would mix
///         them in)
ShapesFiles make_shapes(const ShapesOptions& options);

}  // namespace tessera::data
