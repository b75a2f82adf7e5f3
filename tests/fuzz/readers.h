#pragma once

#include <filesystem>
#include <string_view>

namespace tessera {

// Readers of files from outside, for fuzzing: each takes any bytes, and must read them or throw Error.
//
// @param scratch  a file that the bytes may be written to
// @return whether they were accepted; all that was read has then been looked at
// @throws whatever else than Error the reader throws, which is a finding

bool accepts_safetensors(std::string_view bytes, const std::filesystem::path& scratch);
bool accepts_pytorch_file(std::string_view bytes, const std::filesystem::path& scratch);
bool accepts_adapter_config(std::string_view bytes, const std::filesystem::path& scratch);
/// What is looked at of a picture before a decoder gets it.
bool accepts_image_header(std::string_view bytes, const std::filesystem::path& scratch);
bool accepts_tar(std::string_view bytes, const std::filesystem::path& scratch);
/// Its pictures a.jpg and b.jpg are there, beside the scratch file.
bool accepts_caption_table(std::string_view bytes, const std::filesystem::path& scratch);

}  // namespace tessera
