# One target a folder: tessera_library, tessera_app, tessera_test.
add_library(tessera_options INTERFACE)
target_compile_features(tessera_options INTERFACE cxx_std_20)
target_compile_options(tessera_options INTERFACE -Wall -Wextra -Wpedantic -Wno-missing-field-initializers)
if(TESSERA_WERROR)
  target_compile_options(tessera_options INTERFACE -Werror)
endif()
# Units name their sources by whole paths: messages (__FILE__) and ccache should not depend on where the clone lies.
target_compile_options(tessera_options INTERFACE "-fmacro-prefix-map=${CMAKE_SOURCE_DIR}/=")
if(TESSERA_CCACHE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(tessera_options INTERFACE -fpch-preprocess)
endif()
if(TESSERA_SANITIZE)
  target_compile_options(tessera_options INTERFACE -fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(tessera_options INTERFACE -fsanitize=${TESSERA_SANITIZE})
endif()
if(TESSERA_FUZZ)
  target_compile_options(tessera_options INTERFACE -fsanitize=fuzzer-no-link)  # libFuzzer follows what was reached
endif()
find_program(TESSERA_LLD ld.lld)
if(TESSERA_LLD)
  target_link_options(tessera_options INTERFACE -fuse-ld=lld)
endif()

if(NOT EXISTS "${CMAKE_BINARY_DIR}/tessera_pch.cpp")  # writing it again would make it newer than its objects
  file(WRITE "${CMAKE_BINARY_DIR}/tessera_pch.cpp" "")
endif()

# One precompiled set of headers for the tests, which include nearly all of them. Each source that uses it pays 7 s for
# what these headers make GCC instantiate.
if(TESSERA_TESTS)
  add_library(tessera_pch OBJECT "${CMAKE_BINARY_DIR}/tessera_pch.cpp")
  # GCC takes a precompiled header only where macros are as they were: what defines some is linked here and in each test.
  set(TESSERA_PCH_LIBS tessera_options tessera_torch GTest::gmock fmt::fmt nlohmann_json::nlohmann_json)
  target_link_libraries(tessera_pch PUBLIC ${TESSERA_PCH_LIBS})
  target_precompile_headers(tessera_pch PRIVATE
    <torch/torch.h> <fmt/format.h> <fmt/ranges.h> <gmock/gmock.h> <gtest/gtest.h> <nlohmann/json.hpp>)
endif()

# The libraries and programs do without: a unit reads its narrow headers once, and would begin only when a set is made.
# The preset cpu-edit compiles each source by itself, most of whose time these headers are. The set holds no more, because
# a source pays for what it makes GCC instantiate (2.5 s), also if it uses none of it.
if(TESSERA_PRECOMPILE)
  add_library(tessera_library_pch OBJECT "${CMAKE_BINARY_DIR}/tessera_pch.cpp")
  target_link_libraries(tessera_library_pch PUBLIC tessera_options tessera_torch nlohmann_json::nlohmann_json)
  target_compile_options(tessera_library_pch PRIVATE -fopenmp)
  target_precompile_headers(tessera_library_pch PRIVATE <torch/nn/module.h> <ATen/ATen.h> <nlohmann/json.hpp>)
endif()

# tessera_precompile(NAME): sources of a library or program use that set, if there is one. GCC takes it only where flags
# are as they were when it was made: programs are then compiled as the libraries are.
function(tessera_precompile name)
  if(TESSERA_PRECOMPILE)
    target_compile_options(${name} PRIVATE -fPIC -fopenmp)
    target_precompile_headers(${name} REUSE_FROM tessera_library_pch)
  endif()
endfunction()

# Sources of a target are compiled several to a unit (CMake's unity build): each unit reads LibTorch's headers once, and
# they are most of what a source costs. Units are even, of at most eight sources: two cores should end together, and a
# compiler takes up to 2 GB for one. The presets cpu-files and cpu-edit compile file by file.
function(tessera_unity name)
  get_target_property(sources ${name} SOURCES)
  list(LENGTH sources count)
  math(EXPR units "(${count} + 7) / 8")
  math(EXPR size "(${count} + ${units} - 1) / ${units}")
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${TESSERA_UNITY} UNITY_BUILD_BATCH_SIZE ${size})
endfunction()

# tessera_library(NAME [NARROW] SOURCES … [LIBS …] [PRIVATE_LIBS …]): target tessera_NAME of src/NAME. NARROW: most of its
# sources include neither torch/nn/module.h nor ATen/ATen.h, and are quicker without their precompiled set.
function(tessera_library name)
  cmake_parse_arguments(ARG "NARROW" "" "SOURCES;LIBS;PRIVATE_LIBS" ${ARGN})
  add_library(tessera_${name} STATIC ${ARG_SOURCES})
  target_include_directories(tessera_${name} PUBLIC "${CMAKE_SOURCE_DIR}/src")
  target_link_libraries(tessera_${name} PUBLIC tessera_options tessera_torch ${ARG_LIBS} PRIVATE ${ARG_PRIVATE_LIBS})
  # at::parallel_for is a plain loop in sources that are compiled without OpenMP.
  target_compile_options(tessera_${name} PRIVATE -fopenmp)
  target_link_options(tessera_${name} INTERFACE -fopenmp)
  tessera_quiet(tessera_${name})
  tessera_unity(tessera_${name})
  if(NOT ARG_NARROW)
    tessera_precompile(tessera_${name})
  endif()
endfunction()

# GCC 12 is wrong about joined std::strings: -Wrestrict (GCC bug 105651), and -Wstringop-overflow likewise.
function(tessera_quiet name)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${name} PRIVATE -Wno-restrict -Wno-stringop-overflow)
  endif()
endfunction()

# tessera_app(NAME SOURCES … LIBS …): a program in the build folder's bin/.
function(tessera_app name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tessera_options tessera_torch ${ARG_LIBS})
  tessera_quiet(${name})
  tessera_unity(${name})
  tessera_precompile(${name})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
endfunction()

# tessera_test(NAME LABEL … SOURCES … LIBS … [TIMEOUT …]): a GoogleTest program whose suites are registered one by one
# with CTest. Seconds of TIMEOUT are for a whole suite.
function(tessera_test name)
  cmake_parse_arguments(ARG "" "LABEL;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${TESSERA_PCH_LIBS} ${ARG_LIBS} GTest::gtest_main)
  tessera_quiet(${name})
  tessera_unity(${name})
  # Position-independent like the precompiled header: GCC refuses one that was made with other settings.
  target_compile_options(${name} PRIVATE -fPIC)
  target_precompile_headers(${name} REUSE_FROM tessera_pch)
  target_compile_definitions(${name} PRIVATE TESSERA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set(list "${CMAKE_CURRENT_BINARY_DIR}/${name}_list.cmake")
  file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake" CONTENT
       "include(\"${CMAKE_SOURCE_DIR}/cmake/TesseraSuites.cmake\")
tessera_list_suites(\"$<TARGET_FILE:${name}>\" \"${list}\" \"${ARG_LABEL}\" ${ARG_TIMEOUT})
include(\"${list}\")
")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${CMAKE_CURRENT_BINARY_DIR}/${name}_suites.cmake")
endfunction()

# tessera_test_instruction_sets(NAME FILTER): the cases that FILTER names once more for each smaller instruction set that
# kernels are compiled for (src/ops/cpu/vectors.h).
function(tessera_test_instruction_sets name filter)
  foreach(capability avx2 default)
    add_test(NAME ${name}.${capability} COMMAND ${name} --gtest_filter=${filter})
    set_tests_properties(${name}.${capability} PROPERTIES LABELS unit TIMEOUT 300
                         ENVIRONMENT ATEN_CPU_CAPABILITY=${capability})
  endforeach()
endfunction()
