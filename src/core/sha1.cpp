#include "core/sha1.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace tessera {

namespace {

struct Round {
  std::uint32_t function;
  std::uint32_t constant;
};
Round round_of(std::size_t i, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  if (i < 20) {
    return {(b & c) | (~b & d), 0x5A827999u};
  }
  if (i < 40) {
    return {b ^ c ^ d, 0x6ED9EBA1u};
  }
  if (i < 60) {
    return {(b & c) | (b & d) | (c & d), 0x8F1BBCDCu};
  }
  return {b ^ c ^ d, 0xCA62C1D6u};
}

}  // namespace

void Sha1::update(const void* data, std::size_t size) {
  const char* bytes = static_cast<const char*>(data);
  length_ += size;
  while (size > 0) {
    const std::size_t count = std::min(size, block_.size() - filled_);
    std::memcpy(block_.data() + filled_, bytes, count);
    filled_ += count;
    bytes += count;
    size -= count;
    if (filled_ == block_.size()) {
      process_block();
    }
  }
}

std::string Sha1::hex_digest() {
  const std::uint64_t bits = length_ * 8;
  const char marker = '\x80';
  update(&marker, 1);
  const char zero = 0;
  while (filled_ != block_.size() - 8) {
    update(&zero, 1);
  }
  std::array<char, 8> tail{};
  for (std::size_t i = 0; i < tail.size(); ++i) {
    tail[i] = static_cast<char>(bits >> (56 - 8 * i));
  }
  update(tail.data(), tail.size());
  return fmt::format("{:08x}{:08x}{:08x}{:08x}{:08x}", state_[0], state_[1], state_[2], state_[3], state_[4]);
}

void Sha1::process_block() {
  std::array<std::uint32_t, 80> words{};
  for (std::size_t i = 0; i < 16; ++i) {
    words[i] = (std::uint32_t{block_[4 * i]} << 24) | (std::uint32_t{block_[4 * i + 1]} << 16) |
               (std::uint32_t{block_[4 * i + 2]} << 8) | std::uint32_t{block_[4 * i + 3]};
  }
  for (std::size_t i = 16; i < words.size(); ++i) {
    words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
  }
  auto [a, b, c, d, e] = state_;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto [function, constant] = round_of(i, b, c, d);
    const std::uint32_t next = std::rotl(a, 5) + function + e + constant + words[i];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  const std::array<std::uint32_t, 5> sum{a, b, c, d, e};
  for (std::size_t i = 0; i < state_.size(); ++i) {
    state_[i] += sum[i];
  }
  filled_ = 0;
}

}  // namespace tessera
