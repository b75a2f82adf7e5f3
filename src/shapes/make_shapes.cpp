#include "shapes/make_shapes.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <span>
#include <string>

#include "core/error.h"
#include "core/random.h"
#include "data/tar_writer.h"
#include "shapes/scene.h"

namespace tessera::shapes {
namespace {

// Steps of the generator's key: what is drawn with RandomPurpose::kShapes. Later rounds through the
// descriptions have steps after these.
constexpr std::uint64_t kOrderStep = 0, kSceneStep = 1;
constexpr std::int64_t kMostScenes = 10'000'000;

/// A description and its number among all, which names it.
struct NumberedScene {
  std::int64_t number;
  SceneDescription description;
};

void check_range(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value < low || value > high) fail("shapes: {}: expected {} … {}, found {}", name, low, high, value);
}

std::filesystem::path shard_path(const ShapesOptions& options, const std::string& part, std::int64_t shard) {
  return options.output / fmt::format("{}-{:06}.tar", part, shard);
}

std::int64_t shard_count(const ShapesOptions& options, std::int64_t scenes) {
  return (scenes + options.shard_size - 1) / options.shard_size;
}

void check_options(const ShapesOptions& options, std::int64_t descriptions) {
  check_range("image size", options.image_size, 32, 1024);
  check_range("shard size", options.shard_size, 1, 1'000'000);
  check_range("training scenes", options.train_count, 1, kMostScenes);
  // Some descriptions must be left to train on.
  check_range("held-out scenes", options.held_out_count, 1, descriptions / 2);
}

void prepare_folder(const ShapesOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  if (error) fail("shapes: the folder {} can't be made: {}", options.output.string(), error.message());
  for (const auto& [part, scenes] : {std::pair<std::string, std::int64_t>{"train", options.train_count},
                                     std::pair<std::string, std::int64_t>{"val", options.held_out_count}}) {
    const auto leftover = shard_path(options, part, shard_count(options, scenes));
    if (std::filesystem::exists(leftover)) {
      fail("shapes: {} is a shard of a larger set; remove that set or choose another folder",
           leftover.string());
    }
  }
}

std::string encoded_png(const cv::Mat& image, const std::string& key) {
  std::vector<unsigned char> bytes;
  if (!cv::imencode(".png", image, bytes)) fail("shapes: {}: the picture can't be encoded as PNG", key);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void add_scene(data::TarWriter& tar, const std::string& key, const std::string& image_id,
               const SceneDescription& scene, const ShapesOptions& options, CounterRandom& random) {
  tar.add(key + ".png", encoded_png(draw_scene(scene, options.image_size, random), key));
  const nlohmann::json record = {
      {"image_id", image_id}, {"captions", scene_captions(scene)}, {"scene", scene_json(scene)}};
  tar.add(key + ".json", record.dump());
}

/// @param first_index  of the part's first scene among all scenes, for the random numbers
std::vector<std::filesystem::path> write_part(const ShapesOptions& options, const std::string& part,
                                              std::span<const NumberedScene> scenes,
                                              std::uint64_t first_index) {
  std::vector<std::filesystem::path> paths;
  for (std::int64_t shard = 0; shard < shard_count(options, static_cast<std::int64_t>(scenes.size()));
       ++shard) {
    data::TarWriter tar(shard_path(options, part, shard));
    const auto begin = static_cast<std::size_t>(shard * options.shard_size);
    const std::size_t end = std::min(scenes.size(), begin + static_cast<std::size_t>(options.shard_size));
    for (std::size_t i = begin; i < end; ++i) {
      CounterRandom random(options.seed, RandomPurpose::kShapes, kSceneStep, first_index + i);
      const bool tell_from_second = random.below(2) == 1;
      const SceneDescription scene =
          tell_from_second ? told_from_second(scenes[i].description) : scenes[i].description;
      add_scene(tar, fmt::format("shapes-{}-{:06}", part, i), fmt::format("shapes-{:04}", scenes[i].number),
                scene, options, random);
    }
    tar.finish();
    paths.push_back(shard_path(options, part, shard));
  }
  return paths;
}

/// The descriptions that aren't held out, in rounds, each in an order of its own.
std::vector<NumberedScene> training_scenes(std::span<const NumberedScene> descriptions,
                                           const ShapesOptions& options) {
  std::vector<NumberedScene> scenes;
  for (std::uint64_t round = 0; static_cast<std::int64_t>(scenes.size()) < options.train_count; ++round) {
    for (const std::int64_t i :
         random_permutation(static_cast<std::int64_t>(descriptions.size()), options.seed,
                            RandomPurpose::kShapes, kSceneStep + 1 + round)) {
      if (static_cast<std::int64_t>(scenes.size()) == options.train_count) break;
      scenes.push_back(descriptions[static_cast<std::size_t>(i)]);
    }
  }
  return scenes;
}

}  // namespace

ShapesFiles make_shapes(const ShapesOptions& options) {
  const std::vector<SceneDescription> descriptions = canonical_descriptions();
  const auto count = static_cast<std::int64_t>(descriptions.size());
  check_options(options, count);
  prepare_folder(options);
  std::vector<NumberedScene> scenes;
  for (const std::int64_t i : random_permutation(count, options.seed, RandomPurpose::kShapes, kOrderStep)) {
    scenes.push_back({i, descriptions[static_cast<std::size_t>(i)]});
  }
  // Held-out scenes first: more training scenes with the same seed leave them as they are.
  const auto held_out = std::span(scenes).first(static_cast<std::size_t>(options.held_out_count));
  const std::vector<NumberedScene> train =
      training_scenes(std::span(scenes).subspan(held_out.size()), options);
  ShapesFiles files;
  files.held_out = write_part(options, "val", held_out, 0);
  files.train = write_part(options, "train", train, held_out.size());
  return files;
}

}  // namespace tessera::shapes
