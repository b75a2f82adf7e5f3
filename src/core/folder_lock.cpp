#include "core/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

namespace tessera {

FolderLock::FolderLock(const std::filesystem::path& folder)
    : descriptor_(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ < 0) fail("{}: the folder can't be opened: {}", folder.string(), system_message(errno));
  int result = 0;
  do {
    result = ::flock(descriptor_, LOCK_EX);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int error = errno;
    ::close(descriptor_);
    fail("{}: the folder can't be locked: {}", folder.string(), system_message(error));
  }
}

FolderLock::~FolderLock() { ::close(descriptor_); }

}  // namespace tessera
