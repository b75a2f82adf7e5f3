#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace tessera::data {

/// Writes a ustar file whose bytes depend on the members alone (no owner, time 0). It is written beside its
/// place and renamed by finish(); without finish() nothing is left behind.
class TarWriter {
 public:
  /// @throws Error naming the file where it can't be made
  explicit TarWriter(const std::filesystem::path& path);
  ~TarWriter();
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;

  void add(const std::string& name, std::string_view content);
  /// Ends the archive, flushes it to disk and gives it its name.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tessera::data
