#include "tessera/subcommands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iostream>

#include "command_line.h"
#include "core/error.h"

namespace tessera::apps {

namespace {

void print_subcommands(const SubcommandTable& table) {
  std::string kind = table.kind;
  for (char& letter : kind) letter = static_cast<char>(std::toupper(static_cast<unsigned char>(letter)));
  std::cout << fmt::format("{0}\n\nUsage: {1} {2} [OPTIONS]; {1} {2} --help\n\n", table.about, table.program,
                           kind);
  std::size_t width = 0;
  for (const Subcommand& subcommand : table.subcommands)
    width = std::max(width, std::string(subcommand.name).size());
  for (const Subcommand& subcommand : table.subcommands)
    std::cout << fmt::format("  {:<{}}  {}\n", subcommand.name, width, subcommand.meaning);
}

}  // namespace

int run_subcommand(const SubcommandTable& table, const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    print_subcommands(table);
    return arguments.empty() ? kUsage : kDone;
  }
  for (const Subcommand& subcommand : table.subcommands) {
    if (arguments[0] != subcommand.name) continue;
    return run_program(fmt::format("{} {}", table.program, subcommand.name).c_str(), [&] {
      return subcommand.run({arguments.begin() + 1, arguments.end()});
    });
  }
  throw ConfigError(fmt::format("no {} '{}'; see {} --help", table.kind, arguments[0], table.program));
}

}  // namespace tessera::apps
