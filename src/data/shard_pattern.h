#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tessera::data {

/// Expands braces as a shell does: "a-{000000..000003}.tar" (the padding of the first number is kept) and
/// "{train,val}.tar"; several groups and nested ones multiply out, leftmost slowest.
/// @throws Error for unbalanced braces, a group that is neither a range nor a list, a descending range, or
/// more
///         than a million results
std::vector<std::string> expand_braces(const std::string& pattern);

/// The files that the patterns name, in order.
/// @throws Error naming the pattern that is malformed, or the file that is absent, no regular file, or named
/// twice
std::vector<std::filesystem::path> expand_shards(const std::vector<std::string>& patterns);

}  // namespace tessera::data
