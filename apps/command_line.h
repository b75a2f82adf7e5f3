#pragma once

#include <boost/program_options.hpp>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/data_config.h"

namespace tessera::apps {

/// What a program ends with: 0 done, 1 a failure, 2 a mistake in the configuration or on the command line.
enum ExitCode { kDone = 0, kFailure = 1, kUsage = 2 };

/// Runs a program's body and turns what it throws into one line on standard error and an exit code.
int run_program(const char* name, const std::function<int()>& body);

/// Parses the words of a command. Prints `usage` and the options, and returns nothing, where --help or -h is
/// among them. Words that are no option and abbreviations of options are refused.
/// @param positional  options that words without a name belong to
std::optional<boost::program_options::variables_map> parse_options(
    const std::string& usage, boost::program_options::options_description description,
    const std::vector<std::string>& arguments,
    const boost::program_options::positional_options_description& positional = {});

/// Boost takes the value of an option that may go without one only as --option=VALUE. This makes that of the
/// words --option VALUE, for the options named.
std::vector<std::string> join_optional_values(const std::vector<std::string>& arguments,
                                              const std::vector<std::string>& names);

/// --table KEY=VALUE, for what reads images with captions.
void add_table_option(boost::program_options::options_description& description);
/// Puts its values where those of data.table stand.
/// @throws ConfigError naming the word that is none, with the keys that there are
void apply_table_option(const boost::program_options::variables_map& values, data::TableConfig& table);

/// "tessera 0.1.0".
const char* version_line();

}  // namespace tessera::apps
