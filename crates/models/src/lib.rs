#![doc = "placeholder"]
#![forbid(unsafe_code)]
