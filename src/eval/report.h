#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera::eval {

/// The figures of a suite (suites.h) for a terminal: retrieval as a table, a line a scorer and recalls in per
/// cent; every other number on a line of its own, with its chance level and that of swapped images beside it
/// where it has them.
std::string to_table(const nlohmann::json& figures);

}  // namespace tessera::eval
