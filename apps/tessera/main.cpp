// tessera: tools around training and evaluation, one sub-command each.

#include <iostream>
#include <string>
#include <vector>

#include "command_line.h"
#include "core/error.h"
#include "tessera/commands.h"

namespace tessera::apps {
namespace {

struct Command {
  const char* name;
  int (*run)(const std::vector<std::string>&);
  const char* meaning;
};

constexpr Command kCommands[] = {
    {"make-shapes", make_shapes_command, "draw the \"shapes\" picture-caption set as WebDataset shards"},
    {"train-tokenizer", train_tokenizer_command,
     "train a SentencePiece tokenizer from captions and text files"},
    {"retrieval-pictures", retrieval_pictures_command,
     "draw held-out pictures with the captions that a model finds for them"},
    {"caption", caption_command, "say what is in images"},
    {"match", match_command, "say which of several texts fits an image"},
    {"embed", embed_command, "write embeddings of images and texts as safetensors"},
    {"features", features_command, "write an image encoder's features of many images as safetensors"},
    {"explain", explain_command, "draw images with their captions and where the words of them are"},
    {"bundle", bundle_command, "write a checkpoint as one folder that needs nothing beside it"},
    {"adapter", adapter_command, "see into, merge, rename, combine and compare PEFT adapters"},
    {"memory", memory_command, "write, recall and forget image-caption pairs without training anything"},
    {"summary", summary_command, "gather the quickstart's figures into one JSON file"},
};

void print_help() {
  std::cout << "Tools around training and evaluation.\n\nUsage: tessera COMMAND [OPTIONS]; tessera COMMAND "
               "--help\n\n";
  for (const Command& command : kCommands)
    std::cout << fmt::format("  {:<20}{}\n", command.name, command.meaning);
}

int body(int argc, char** argv) {
  if (argc < 2 || std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h") {
    print_help();
    return argc < 2 ? kUsage : kDone;
  }
  const std::string name = argv[1];
  if (name == "--version") {
    std::cout << version_line() << "\n";
    return kDone;
  }
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run({argv + 2, argv + argc});
  }
  throw ConfigError(fmt::format("no command '{}'; see tessera --help", name));
}

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  // What goes wrong in a command points at that command's own --help.
  const std::string name = argc > 1 ? fmt::format("tessera {}", argv[1]) : "tessera";
  return tessera::apps::run_program(name.c_str(), [&] { return tessera::apps::body(argc, argv); });
}
