#pragma once

#include <fmt/format.h>

#include <iostream>
#include <string>
#include <vector>

#include "command_line.h"
#include "core/error.h"

namespace tessera::apps {

/// What a command with sub-commands of its own offers ("tessera memory recall").
struct Action {
  const char* name;
  int (*run)(const std::vector<std::string>&);
  const char* meaning;
};

/// Runs the action that the first word names, with the words after it; --help lists them all.
/// @param about  what the command is for, a sentence
template <std::size_t kCount>
int run_action(const char* command, const char* about, const Action (&actions)[kCount],
               const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    std::cout << fmt::format("{0}\n\nUsage: tessera {1} ACTION [OPTIONS]; tessera {1} ACTION --help\n\n",
                             about, command);
    for (const Action& action : actions)
      std::cout << fmt::format("  {:<12}{}\n", action.name, action.meaning);
    return arguments.empty() ? kUsage : kDone;
  }
  for (const Action& action : actions) {
    if (arguments[0] != action.name) continue;
    // What goes wrong in an action points at that action's own --help.
    return run_program(fmt::format("tessera {} {}", command, action.name).c_str(), [&] {
      return action.run({arguments.begin() + 1, arguments.end()});
    });
  }
  throw ConfigError(fmt::format("no action '{}'; see tessera {} --help", arguments[0], command));
}

}  // namespace tessera::apps
