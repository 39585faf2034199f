// What fmt's headers declare, compiled here once: header-only, fmt was half of most files' compile
// time. Hidden like all of ours, so another fmt in the process stays apart.
#include <fmt/format-inl.h>

FMT_BEGIN_NAMESPACE
namespace detail {

// <fmt/format.h> promises that some file has these.
template auto thousands_sep_impl(locale_ref) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref) -> char;

}  // namespace detail
FMT_END_NAMESPACE
