// SPDX-License-Identifier: Apache-2.0

// Package crds has the CustomResourceDefinitions of group patchbay.net, as
// generated from pkg/api, for tests and tools that install or read them.
package crds

import (
	"embed"
	"io/fs"
	"path"
)

//go:embed *.yaml
var files embed.FS

// Files returns the YAML of each definition by file name.
func Files() (map[string][]byte, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(names))
	for _, name := range names {
		if out[path.Base(name)], err = files.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}
