// SPDX-License-Identifier: Apache-2.0

// Package objects holds the compiled BPF programs of bpf/ and the Go types
// of their maps, both written by bpf2go and committed, so that building
// Patchbay needs no LLVM. The object "Map" has no programs: it is the schema,
// every map once; the other objects share its maps by name.
//
// Regenerate with go generate; gen -verify says whether what is committed is
// what the C files say.
package objects

//go:generate go run ./gen
