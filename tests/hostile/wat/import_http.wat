;; B11: asks for outgoing HTTP.
(component
  (import "wasi:http/types@0.2.0" (instance))
  (import "wasi:http/outgoing-handler@0.2.0" (instance))
  (core module $m (func (export "run")))
  (core instance $i (instantiate $m))
  (func (export "run") (canon lift (core func $i "run"))))
