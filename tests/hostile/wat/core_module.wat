;; B2: a core module.
(module (func (export "run")))
