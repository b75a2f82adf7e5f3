# Finds what Tessera stands on. LibTorch comes from the wheel's own folders as an imported target over
# torch_cpu and c10: the wheel's CMake package would demand a full CUDA toolkit also for a CPU build.
if(NOT TESSERA_LIBTORCH)
  set(TESSERA_LIBTORCH "$ENV{TESSERA_LIBTORCH}")
endif()
if(NOT EXISTS "${TESSERA_LIBTORCH}/include/ATen/ATen.h")
  message(FATAL_ERROR
    "LibTorch was not found at '${TESSERA_LIBTORCH}'. Run scripts/setup.sh and configure with "
    "-DTESSERA_LIBTORCH=\"$(scripts/setup.sh --print-libtorch)\".")
endif()

# LibTorch's include folder also holds headers of its own {fmt}, newer than the library that spdlog and we link. A
# folder that is searched before it leads to the right ones.
find_package(fmt REQUIRED)
get_target_property(TESSERA_FMT_INCLUDE fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
set(TESSERA_FIRST_HEADERS "${CMAKE_BINARY_DIR}/first_headers")
file(MAKE_DIRECTORY "${TESSERA_FIRST_HEADERS}")
file(CREATE_LINK "${TESSERA_FMT_INCLUDE}/fmt" "${TESSERA_FIRST_HEADERS}/fmt" SYMBOLIC)

add_library(tessera_torch INTERFACE)
target_include_directories(tessera_torch SYSTEM INTERFACE
  "${TESSERA_FIRST_HEADERS}" "${TESSERA_LIBTORCH}/include" "${TESSERA_LIBTORCH}/include/torch/csrc/api/include")
target_link_libraries(tessera_torch INTERFACE
  "${TESSERA_LIBTORCH}/lib/libtorch_cpu.so" "${TESSERA_LIBTORCH}/lib/libc10.so")
if(TESSERA_CUDA)
  # Nothing calls these by name: what registers itself in them is what makes a GPU usable, so they must not be dropped
  # as unneeded.
  foreach(library torch_cuda c10_cuda)
    if(NOT EXISTS "${TESSERA_LIBTORCH}/lib/lib${library}.so")
      message(FATAL_ERROR "TESSERA_CUDA=ON, but ${TESSERA_LIBTORCH}/lib/lib${library}.so is not there: "
                          "give a LibTorch that was built with CUDA")
    endif()
    target_link_libraries(tessera_torch INTERFACE
      "-Wl,--no-as-needed,${TESSERA_LIBTORCH}/lib/lib${library}.so,--as-needed")
  endforeach()
endif()
# The wheel finds its CUDA runtime libraries beside itself; the linker has to be told not to look for them.
target_link_options(tessera_torch INTERFACE "-Wl,--allow-shlib-undefined")
target_compile_definitions(tessera_torch INTERFACE USE_DISTRIBUTED USE_C10D_GLOO)

# Debian's CMake package of OpenCV comes only with libopencv-dev, which pulls in 150 packages that nothing here needs;
# of the three modules' own packages, headers and libraries are found by name and get the same targets.
find_package(OpenCV QUIET COMPONENTS core imgproc imgcodecs)
if(NOT OpenCV_FOUND)
  find_path(OpenCV_INCLUDE_DIRS opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
  set(OpenCV_LIBS opencv_core opencv_imgproc opencv_imgcodecs)
  foreach(module IN LISTS OpenCV_LIBS)
    find_library(TESSERA_${module}_LIBRARY ${module} REQUIRED)
    add_library(${module} UNKNOWN IMPORTED)
    set_target_properties(${module} PROPERTIES
      IMPORTED_LOCATION "${TESSERA_${module}_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${OpenCV_INCLUDE_DIRS}")
  endforeach()
endif()
find_package(yaml-cpp REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
find_package(LibArchive REQUIRED)
find_path(TESSERA_CSV_INCLUDE csv.h REQUIRED)
find_library(TESSERA_CSV_LIBRARY csv REQUIRED)
add_library(Csv::Csv UNKNOWN IMPORTED)
set_target_properties(Csv::Csv PROPERTIES
  IMPORTED_LOCATION "${TESSERA_CSV_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${TESSERA_CSV_INCLUDE}")
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(sentencepiece REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)
if(TESSERA_TESTS)
  find_package(GTest REQUIRED)
endif()
