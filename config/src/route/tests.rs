//! What table look-up owes to Gateway API, row by row, and to a naive reading of its rules.
