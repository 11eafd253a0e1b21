//! Request code to handler, on one page.
