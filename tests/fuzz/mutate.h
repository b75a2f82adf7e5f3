#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace tessera {

/// A few random edits of a valid file: bits, bytes, integers at either width that are likely limits, decimal
/// numbers, cuts, doubled and swapped pieces, and pieces of another file. The same for a seed everywhere.
class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : engine_(seed) {}

  std::string mutate(std::string bytes, const std::vector<std::string>& corpus) {
    for (std::size_t edits = 1 + below(3); edits > 0; --edits) edit(bytes, corpus);
    return bytes;
  }

 private:
  // std::uniform_int_distribution differs between libraries.
  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : engine_() % limit; }

  void edit(std::string& bytes, const std::vector<std::string>& corpus) {
    const std::size_t at = below(bytes.size());
    const std::size_t length = below(std::min<std::size_t>(bytes.size() - at, 64) + 1);
    switch (below(9)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        return;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(engine_());
        return;
      case 2:
        bytes.resize(at);
        return;
      case 3:
        bytes.erase(at, length);
        return;
      case 4:
        bytes.insert(at, bytes.substr(at, length));
        return;
      case 5:
        bytes.replace(below(bytes.size()), length, bytes.substr(at, length));
        return;
      case 6: {
        const std::string& other = corpus[below(corpus.size())];
        const std::size_t from = below(other.size());
        const std::size_t taken = below(256);
        bytes.replace(at, below(2) * length, other.substr(from, taken));
        return;
      }
      case 7:
        put_integer(bytes, at);
        return;
      default:
        put_decimal(bytes, at);
        return;
    }
  }

  /// A number that is near a limit, or near what stands there.
  std::uint64_t number(std::uint64_t old) {
    const std::uint64_t step = below(3);
    switch (below(6)) {
      case 0:
        return step - 1;
      case 1:
        return (std::uint64_t{1} << below(64)) - 1 + step;
      case 2:
        return ~std::uint64_t{0} - step;
      case 3:
        return old + step - 1;
      case 4:
        return old << below(40);
      default:
        return engine_() >> below(64);
    }
  }

  void put_integer(std::string& bytes, std::size_t at) {
    const std::size_t width = std::size_t{1} << below(4);
    if (bytes.size() < at + width) return;
    std::uint64_t old = 0;
    for (std::size_t i = width; i-- > 0;) old = old << 8 | static_cast<unsigned char>(bytes[at + i]);
    std::uint64_t value = number(old);
    for (std::size_t i = 0; i < width; ++i, value >>= 8) bytes[at + i] = static_cast<char>(value & 0xff);
  }

  /// The digits from a place on: JSON's numbers.
  void put_decimal(std::string& bytes, std::size_t at) {
    const std::size_t begin = bytes.find_first_of("0123456789", at);
    if (begin == std::string::npos) return;
    const std::size_t end = bytes.find_first_not_of("0123456789", begin);
    const std::size_t length =
        std::min<std::size_t>((end == std::string::npos ? bytes.size() : end) - begin, 18);
    const std::uint64_t old = std::stoull(bytes.substr(begin, length));
    const char* sign = below(8) == 0 ? "-" : "";
    bytes.replace(begin, length, fmt::format("{}{}", sign, number(old)));
  }

  std::mt19937_64 engine_;
};

}  // namespace tessera
