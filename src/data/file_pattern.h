#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace tessera::data {

/// Expands braces as a shell does: "a-{000000..000003}.tar" (the padding of the first number is kept) and
/// "{train,val}.tar"; several groups and nested ones multiply out, leftmost slowest. A backslash before a
/// brace, a comma or a backslash takes its meaning away.
/// @throws Error for unbalanced braces, a group that is neither a range nor a list, a descending range, or
///         more than a million results
std::vector<std::string> expand_braces(const std::string& pattern);

/// The files and folders that the patterns name, in order. What is there under a name with braces is meant by
/// it: the whole pattern, or its folders up to a '/', behind which it goes on as a pattern.
/// @throws Error naming the pattern that is malformed, or the file that is absent, a device or pipe, or named
/// twice
std::vector<std::filesystem::path> expand_patterns(const std::vector<std::string>& patterns);

}  // namespace tessera::data
