#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace tessera {

/// A mistake that the user can mend: a bad file, key, tensor or value. The message names what was wrong,
/// what was expected and what was found. Programming errors are TORCH_CHECK / TORCH_INTERNAL_ASSERT.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A mistake in the configuration or on the command line; the programs end with exit code 2.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// Throws Error with a formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// What the system says of an errno: "No such file or directory".
inline std::string system_message(int error) { return std::generic_category().message(error); }

/// Text of a file in a message: in quotation marks, without what a terminal would take for a command, and not
/// longer than a line or two.
inline std::string quoted(const std::string& text) {
  constexpr std::size_t kShown = 120;
  std::string result = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    result.push_back(byte < 0x20 || byte == 0x7f ? '?' : c);
  }
  return result + (text.size() > kShown ? "…'" : "'");
}

}  // namespace tessera
