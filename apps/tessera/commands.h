#pragma once

#include <string>
#include <vector>

namespace tessera::apps {

// The sub-commands of `tessera`. Each takes the words after its name, prints its own --help, and returns an
// exit code.

int make_shapes_command(const std::vector<std::string>& arguments);
int train_tokenizer_command(const std::vector<std::string>& arguments);
int retrieval_pictures_command(const std::vector<std::string>& arguments);
int caption_command(const std::vector<std::string>& arguments);
int match_command(const std::vector<std::string>& arguments);
int embed_command(const std::vector<std::string>& arguments);
int explain_command(const std::vector<std::string>& arguments);
int adapter_command(const std::vector<std::string>& arguments);
int features_command(const std::vector<std::string>& arguments);
int bundle_command(const std::vector<std::string>& arguments);
int memory_command(const std::vector<std::string>& arguments);
int summary_command(const std::vector<std::string>& arguments);

}  // namespace tessera::apps
