/* An instruction's handler returns 0 or an error; the program's own are in the generated header, in the IDL's order. */
#ifndef ERRORS_H
#define ERRORS_H

#define CHECK(condition, error) do { if (!(condition)) return (error); } while (0)
#define TRY(call) do { u64 failed_ = (call); if (failed_) return failed_; } while (0)

#endif
