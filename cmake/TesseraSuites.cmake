# Read by ctest, not by the configuration: one test a suite of a GoogleTest program. A process a case would load LibTorch
# (0.4 s of CPU) for each of more than a thousand. The program is asked when tests are to run and it is newer than the list.

# tessera_list_suites(EXECUTABLE LIST LABEL TIMEOUT): writes LIST, which registers EXECUTABLE's suites. Those that may take
# long begin first (COST), so that the others run beside them.
function(tessera_list_suites executable list label timeout)
  if(NOT EXISTS "${executable}")
    file(WRITE "${list}" "add_test(\"${executable}_NOT_BUILT\" \"${executable}\")\n")
    return()
  endif()
  # Label and timeout stand in the file that calls this.
  if(EXISTS "${list}" AND "${list}" IS_NEWER_THAN "${executable}" AND "${list}" IS_NEWER_THAN "${CMAKE_CURRENT_LIST_FILE}"
     AND "${list}" IS_NEWER_THAN "${CMAKE_CURRENT_FUNCTION_LIST_FILE}")
    return()
  endif()
  execute_process(COMMAND "${executable}" --gtest_list_tests OUTPUT_VARIABLE output RESULT_VARIABLE result
                  ERROR_VARIABLE error TIMEOUT 120)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${executable} --gtest_list_tests: ${result}\n${output}${error}")
  endif()
  # Cases are indented. What stands after their # may have brackets, over which a list of lines would stumble.
  string(REGEX MATCHALL "\n[A-Za-z0-9_/]+\\." names "\n${output}")
  set(suites "")
  foreach(name IN LISTS names)
    string(REGEX REPLACE "[\n.]" "" suite "${name}")
    string(APPEND suites "add_test(\"${suite}\" \"${executable}\" \"--gtest_filter=${suite}.*\")\n"
           "set_tests_properties(\"${suite}\" PROPERTIES LABELS \"${label}\" TIMEOUT ${timeout} COST ${timeout})\n")
  endforeach()
  if(suites STREQUAL "")
    message(FATAL_ERROR "${executable} --gtest_list_tests names no suite:\n${output}")
  endif()
  file(WRITE "${list}" "${suites}")
endfunction()
