#pragma once

#include <span>
#include <string>
#include <vector>

namespace tessera::apps {

/// A word that says what to do: `caption` of "tessera", `recall` of "tessera memory".
struct Subcommand {
  const char* name;
  int (*run)(const std::vector<std::string>&);  ///< gets the words after the name
  const char* meaning;
};

struct SubcommandTable {
  const char* program;  ///< what they are sub-commands of: "tessera", "tessera memory"
  const char* kind;     ///< what the help calls one: "command", "action"
  const char* about;    ///< what the program is for, a sentence
  std::span<const Subcommand> subcommands;
};

/// Runs the sub-command that the first word names, as a program of its own: what goes wrong in it points at
/// its own --help. --help lists them all.
/// @return an exit code
/// @throws ConfigError where there is none of that name
int run_subcommand(const SubcommandTable& table, const std::vector<std::string>& arguments);

}  // namespace tessera::apps
