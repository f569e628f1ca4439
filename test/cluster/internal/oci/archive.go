// SPDX-License-Identifier: Apache-2.0

// Package oci writes container images as an OCI archive, the form in which
// a container runtime imports them, without a registry or a daemon. The same
// content gives the same bytes.
package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Config is what the runtime needs to know to start a container.
type Config struct {
	User       string   `json:"User,omitempty"`
	Env        []string `json:"Env,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
}

// Image is a name, a configuration and the layers beneath it. Images that
// share a layer share its blob in the archive.
type Image struct {
	Name   string
	Config Config
	Layers []*Layer
}

// Layer is a compressed file system tree.
type Layer struct {
	blob   []byte
	diffID string
}

// Size is the layer's length, compressed.
func (l *Layer) Size() int { return len(l.blob) }

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// archive collects blobs by digest.
type archive struct {
	tar   *tar.Writer
	blobs map[string]bool
	arch  string
}

// Write writes images for the architecture arch (as GOARCH names it) to w.
func Write(w io.Writer, arch string, images ...Image) error {
	a := &archive{tar: tar.NewWriter(w), blobs: map[string]bool{}, arch: arch}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	index := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}{SchemaVersion: 2, MediaType: mediaIndex}
	for _, image := range images {
		d, err := a.image(image)
		if err != nil {
			return fmt.Errorf("image %s: %w", image.Name, err)
		}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := a.file("index.json", data); err != nil {
		return err
	}
	return a.tar.Close()
}

// image adds the blobs of image and returns the descriptor of its manifest.
func (a *archive) image(image Image) (descriptor, error) {
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	config := struct {
		Created string `json:"created"`
		platform
		Config Config `json:"config"`
		RootFS rootfs `json:"rootfs"`
	}{time.Unix(0, 0).UTC().Format(time.RFC3339), platform{a.arch, "linux"}, image.Config, rootfs{Type: "layers"}}
	manifest := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{SchemaVersion: 2, MediaType: mediaManifest}
	for _, layer := range image.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
		d, err := a.blob(mediaLayer, layer.blob)
		if err != nil {
			return d, err
		}
		manifest.Layers = append(manifest.Layers, d)
	}
	var err error
	if manifest.Config, err = a.json(mediaConfig, config); err != nil {
		return descriptor{}, err
	}
	d, err := a.json(mediaManifest, manifest)
	d.Platform = &config.platform
	d.Annotations = map[string]string{"io.containerd.image.name": image.Name}
	return d, err
}

func (a *archive) json(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return a.blob(mediaType, data)
}

// blob adds data unless the archive has it already.
func (a *archive) blob(mediaType string, data []byte) (descriptor, error) {
	d := descriptor{MediaType: mediaType, Digest: digest(data), Size: len(data)}
	if a.blobs[d.Digest] {
		return d, nil
	}
	a.blobs[d.Digest] = true
	return d, a.file("blobs/sha256/"+d.Digest[len("sha256:"):], data)
}

func (a *archive) file(name string, data []byte) error {
	if err := a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return fmt.Errorf("archive %s: %w", name, err)
	}
	_, err := a.tar.Write(data)
	return err
}

// compress returns the layer of an uncompressed tar stream.
func compress(raw []byte, level int) (*Layer, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return &Layer{blob: out.Bytes(), diffID: digest(raw)}, nil
}
