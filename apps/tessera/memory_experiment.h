#pragma once

#include <string>
#include <vector>

namespace tessera::apps {

/// `tessera memory experiment`, with the words after that.
int memory_experiment_action(const std::vector<std::string>& arguments);

}  // namespace tessera::apps
