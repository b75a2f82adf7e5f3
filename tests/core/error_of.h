#pragma once

#include <string>

#include "core/error.h"

namespace tessera {

/// The message of the tessera::Error that a call throws; "no error" where it throws none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace tessera
