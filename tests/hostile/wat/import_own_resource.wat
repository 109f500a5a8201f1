;; B12: takes a pollable for a type of its own.
(component
  (import "wasi:io/poll@0.2.0" (instance (type $t u32) (export "pollable" (type (eq $t)))))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
