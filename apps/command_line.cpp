#include "command_line.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <iostream>

#include "core/busy_waiting.h"
#include "core/cpu_memory.h"
#include "core/error.h"
#include "core/processors.h"

namespace tessera::apps {

namespace {

/// A program that was started without standard streams (2>&-) would get their numbers for the next files that
/// it opens, and write its messages into those.
void keep_standard_streams_open() {
  for (int stream = STDIN_FILENO; stream <= STDERR_FILENO; ++stream) {
    if (::fcntl(stream, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest number that is free is this one.
    [[maybe_unused]] const int opened = ::open("/dev/null", O_RDWR);
  }
}

}  // namespace

int run_program(const char* name, const std::function<int()>& body) {
  keep_standard_streams_open();
  keep_freed_memory();
  limit_threads_to_quota();
  const BusyWaiting busy_waiting;
  try {
    return body();
  } catch (const ConfigError& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return kUsage;
  } catch (const boost::program_options::error& error) {
    std::fprintf(stderr, "%s: %s; see %s --help\n", name, error.what(), name);
    return kUsage;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  } catch (const c10::Error& error) {
    // A broken invariant, not the user's mistake: the place in the code matters.
    std::fprintf(stderr, "%s: internal error: %s\n", name, error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return kFailure;
}

std::optional<boost::program_options::variables_map> parse_options(
    const std::string& usage, boost::program_options::options_description description,
    const std::vector<std::string>& arguments,
    const boost::program_options::positional_options_description& positional) {
  namespace options = boost::program_options;
  description.add_options()("version", "print the version and stop")("help,h", "print this and stop");
  // Guessing would let --res stand for --resume, and a misspelt option pass unseen.
  const int style = options::command_line_style::unix_style & ~options::command_line_style::allow_guessing;
  options::variables_map values;
  options::command_line_parser parser(arguments);
  parser.options(description).style(style);
  if (positional.max_total_count() > 0) parser.positional(positional);
  const options::parsed_options parsed = parser.run();
  for (const options::option& option : parsed.options) {
    if (option.string_key.empty() && !option.value.empty()) {
      throw ConfigError(fmt::format("'{}' belongs to no option; see --help", option.value.front()));
    }
  }
  options::store(parsed, values);
  if (values.count("help") != 0) {
    std::cout << usage << "\n" << description;
    return std::nullopt;
  }
  if (values.count("version") != 0) {
    std::cout << version_line() << "\n";
    return std::nullopt;
  }
  options::notify(values);
  return values;
}

std::vector<std::string> join_optional_values(const std::vector<std::string>& arguments,
                                              const std::vector<std::string>& names) {
  std::vector<std::string> joined;
  for (const std::string& argument : arguments) {
    const bool is_value = !argument.empty() && argument.front() != '-';
    const bool may_take_it =
        !joined.empty() && std::find(names.begin(), names.end(), joined.back()) != names.end();
    if (is_value && may_take_it) {
      joined.back() += "=" + argument;
    } else {
      joined.push_back(argument);
    }
  }
  return joined;
}

void add_table_option(boost::program_options::options_description& description) {
  description.add_options()("table", boost::program_options::value<std::vector<std::string>>()->composing(),
                            "KEY=VALUE of a CSV or TSV table: image, caption or image_id and a column's "
                            "name, or folder and where its pictures are; default: a model's data.table");
}

void apply_table_option(const boost::program_options::variables_map& values, data::TableConfig& table) {
  if (values.count("table") == 0) return;
  for (const std::string& word : values["table"].as<std::vector<std::string>>()) {
    const std::size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    std::string* const place = key == "image"      ? &table.image
                               : key == "caption"  ? &table.caption
                               : key == "image_id" ? &table.image_id
                               : key == "folder"   ? &table.folder
                                                   : nullptr;
    if (place == nullptr || equals == std::string::npos) {
      throw ConfigError(fmt::format(
          "--table: expected image=, caption=, image_id= or folder= and a value, found '{}'", word));
    }
    *place = word.substr(equals + 1);
  }
}

const char* version_line() { return "tessera " TESSERA_VERSION; }

}  // namespace tessera::apps
