#include "command_line.h"

#include <c10/util/Exception.h>

#include <cstdio>
#include <iostream>

#include "core/error.h"

namespace tessera::apps {

int run_program(const char* name, const std::function<int()>& body) {
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
    const std::vector<std::string>& arguments) {
  namespace options = boost::program_options;
  description.add_options()("version", "print the version and stop")("help,h", "print this and stop");
  // Guessing would let --res stand for --resume, and a misspelt option pass unseen.
  const int style = options::command_line_style::unix_style & ~options::command_line_style::allow_guessing;
  options::variables_map values;
  options::store(
      options::command_line_parser(arguments).options(description).style(style).positional({}).run(), values);
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

const char* version_line() { return "tessera " TESSERA_VERSION; }

}  // namespace tessera::apps
