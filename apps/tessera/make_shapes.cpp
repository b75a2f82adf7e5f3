#include <filesystem>
#include <iostream>

#include "command_line.h"
#include "shapes/make_shapes.h"
#include "tessera/commands.h"

namespace tessera::apps {

namespace options = boost::program_options;

int make_shapes_command(const std::vector<std::string>& arguments) {
  const shapes::ShapesOptions defaults;
  options::options_description description("Options");
  // clang-format off
  description.add_options()
      ("output,o", options::value<std::string>()->required(), "folder for the shards; made where absent")
      ("train-scenes", options::value<std::int64_t>()->default_value(defaults.train_count), "scenes to train on")
      ("held-out-scenes", options::value<std::int64_t>()->default_value(defaults.held_out_count),
       "scenes whose descriptions training never shows")
      ("image-size", options::value<std::int64_t>()->default_value(defaults.image_size), "pixels a side")
      ("shard-size", options::value<std::int64_t>()->default_value(defaults.shard_size), "scenes a shard")
      ("seed", options::value<std::uint64_t>()->default_value(defaults.seed), "everything follows from it");
  // clang-format on
  const auto values = parse_options(
      "Draws scenes of two coloured shapes with true captions, as WebDataset shards.\n\n"
      "Usage: tessera make-shapes --output FOLDER [OPTIONS]\n",
      description, arguments);
  if (!values) return kDone;

  shapes::ShapesOptions set;
  set.output = (*values)["output"].as<std::string>();
  set.train_count = (*values)["train-scenes"].as<std::int64_t>();
  set.held_out_count = (*values)["held-out-scenes"].as<std::int64_t>();
  set.image_size = (*values)["image-size"].as<std::int64_t>();
  set.shard_size = (*values)["shard-size"].as<std::int64_t>();
  set.seed = (*values)["seed"].as<std::uint64_t>();
  const shapes::ShapesFiles files = shapes::make_shapes(set);
  std::cout << set.train_count << " scenes in " << files.train.size() << " training shards, "
            << set.held_out_count << " held out in " << files.held_out.size() << ", in "
            << set.output.string() << "\n";
  return kDone;
}

}  // namespace tessera::apps
