// tessera: tools around training and evaluation, one sub-command each.

#include <iostream>
#include <string>
#include <vector>

#include "command_line.h"
#include "tessera/commands.h"
#include "tessera/subcommands.h"

namespace tessera::apps {
namespace {

constexpr Subcommand kCommands[] = {
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

}  // namespace
}  // namespace tessera::apps

int main(int argc, char** argv) {
  using namespace tessera::apps;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  return run_program("tessera", [&] {
    if (!arguments.empty() && arguments[0] == "--version") {
      std::cout << version_line() << "\n";
      return static_cast<int>(kDone);
    }
    return run_subcommand({"tessera", "command", "Tools around training and evaluation.", kCommands},
                          arguments);
  });
}
