// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/patchbay-net/patchbay/test/cluster/internal/artefacts"
	"github.com/patchbay-net/patchbay/test/cluster/internal/oci"
)

// patchbayImage is the name that deploy/patchbay.yaml uses.
const patchbayImage = "patchbay.test/patchbay:dev"

// programs are Patchbay's two binaries and the other names of each.
var programs = map[string][]string{
	"patchbayd": {"patchbay-controller", "patchbayctl", "kubectl-patchbay"},
	"patchbay":  {"patchbay-vswitch", "patchbay-ipam"},
}

func (e *env) imagePath() string { return filepath.Join(e.root, "bin", "patchbay-image.tar") }

// image builds Patchbay's image, the two binaries and nothing else, as the
// archive named by args or imagePath.
func (e *env) image(ctx context.Context, args ...string) error {
	path := e.imagePath()
	if len(args) > 0 {
		path = args[0]
	}
	bin, err := filepath.Abs(filepath.Join(e.root, "bin"))
	if err != nil {
		return err
	}
	source := artefacts.Builder{Source: e.root, Log: os.Stderr}
	tree := oci.NewTree()
	for program, names := range programs {
		output := filepath.Join(bin, program)
		if err := source.Go(ctx, ".", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, "./cmd/"+program); err != nil {
			return fmt.Errorf("image: %w", err)
		}
		file := "usr/local/bin/" + program
		if err := tree.File(file, output); err != nil {
			return err
		}
		for _, name := range names {
			tree.Link("usr/local/bin/"+name, file)
		}
	}
	layer, err := tree.Layer()
	if err != nil {
		return err
	}
	image := oci.Image{Name: patchbayImage, Layers: []*oci.Layer{layer}, Config: oci.Config{
		Env:        []string{"PATH=/usr/local/bin"},
		Entrypoint: []string{"/usr/local/bin/patchbayd"},
	}}
	if err := writeArchive(path, image); err != nil {
		return err
	}
	fmt.Fprintf(e.out, "image %s: %s, %.1f MB compressed\n", patchbayImage, path, float64(layer.Size())/1e6)
	return nil
}

func writeArchive(path string, images ...oci.Image) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := oci.Write(f, runtime.GOARCH, images...); err != nil {
		return err
	}
	return f.Close()
}
