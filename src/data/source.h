#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

/// An image with its captions.
struct Sample {
  std::string key;                    ///< what the source calls it
  std::string file;                   ///< path of what names it: a tar, a table
  std::string image_id;               ///< samples of one image share it; the key where none is given
  std::vector<std::string> captions;  ///< at least one; none is empty; UTF-8
  std::vector<std::byte> image;       ///< encoded
};

/// A stable 63-bit number for an image id, the same on every machine and in every run.
std::int64_t image_id_number(std::string_view image_id);

/// What opening a source has shown to be wrong with it. Samples whose content is broken show only when they
/// are read.
struct Damage {
  std::int64_t incomplete_samples = 0;  ///< without an image or captions, say; left out
  std::int64_t breaks = 0;              ///< places where a file can't be read on
  std::vector<std::string> first_keys;  ///< of the first incomplete samples, "FILE: KEY"
};

/// Images with captions, numbered from 0 in an order that is the same whenever the source is opened. Each of
/// its forms (open_source.h) reads one kind of files.
class Source {
 public:
  virtual ~Source() = default;

  virtual std::int64_t size() const = 0;
  virtual const std::string& key(std::int64_t index) const = 0;
  virtual const Damage& damage() const = 0;

  /// Thread-safe. @throws Error naming the sample where its image or captions can't be read
  virtual Sample read(std::int64_t index) const = 0;
  /// The same without the image. Thread-safe.
  virtual Sample read_captions(std::int64_t index) const = 0;
  /// All that the source has written about the sample as a JSON object, for evaluation that needs more of it
  /// than captions; null where it has none. Thread-safe. @throws Error naming the sample where it is broken
  virtual nlohmann::json read_json(std::int64_t index) const = 0;
};

}  // namespace tessera::data
