;; B11, M22: asks for a key-value store.
(component
  (import "wasi:keyvalue/store@0.2.0-draft" (instance))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
