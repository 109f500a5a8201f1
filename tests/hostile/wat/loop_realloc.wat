(component ;; host lowers a string arg -> calls guest realloc -> never returns
  (core module $m (memory (export "mem") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (loop $l br $l) unreachable)
    (func (export "run") (param i32 i32)))
  (core instance $i (instantiate $m))
  (func (export "run") (param "s" string) (canon lift (core func $i "run") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))
