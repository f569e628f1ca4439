// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/durable"
)

// Writer writes outputs to the status folder, one file per object and one per
// status; it never touches the objects folder. The status of an object that is
// gone is removed with the next write, so that a later object by its name
// doesn't inherit it.
type Writer struct {
	opts Options

	mu      sync.Mutex
	objects folder
	status  folder
}

// NewWriter returns the writer for a status folder, which is made if it isn't
// there. While the objects folder is away it writes nothing. Several processes may write to one folder as long as each object has
// one writer.
func NewWriter(opts Options) (*Writer, error) {
	if opts.StatusDir == "" {
		return nil, errors.New("make status folder: its path must be given")
	}
	if err := opts.makeStatusDir(); err != nil {
		return nil, err
	}
	return &Writer{opts: opts, objects: folder{dir: opts.Dir}, status: folder{dir: opts.StatusDir, ours: true}}, nil
}

// Apply implements source.Writer. An object that a file of the objects folder
// defines is refused: that is the operator's.
func (w *Writer) Apply(_ context.Context, obj source.Object) error {
	t, name, err := identify(obj)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.refresh(); err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	for _, c := range w.objects.files {
		if i := slices.IndexFunc(c.good(), func(d document) bool { return d.ref == name }); i >= 0 {
			return fmt.Errorf("apply %s: defined in %s", name, c.good()[i].origin)
		}
	}
	fields, err := fieldsOf(obj)
	if err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	delete(fields, "status")
	if err := w.write(w.path(name, ".yaml"), t, fields); err != nil {
		return fmt.Errorf("apply %s: %w", name, err)
	}
	return nil
}

// UpdateStatus implements source.Writer.
func (w *Writer) UpdateStatus(ctx context.Context, obj source.Object) error {
	t, name, err := identify(obj)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.find(ctx, name); err != nil {
		return fmt.Errorf("update status of %s: %w", name, err)
	}
	fields, err := fieldsOf(obj)
	if err != nil {
		return fmt.Errorf("update status of %s: %w", name, err)
	}
	delete(fields, "spec")
	metadata := map[string]any{"name": name.key.Name}
	if name.key.Namespace != "" {
		metadata["namespace"] = name.key.Namespace
	}
	fields["metadata"] = metadata
	if err := w.write(w.path(name, statusSuffix), t, fields); err != nil {
		return fmt.Errorf("update status of %s: %w", name, err)
	}
	return nil
}

// Delete implements source.Writer.
func (w *Writer) Delete(_ context.Context, kind source.Kind, key source.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := ref{kind, key}
	var errs []error
	for _, suffix := range []string{".yaml", statusSuffix} {
		if err := os.Remove(w.path(name, suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, durable.SyncDir(w.opts.StatusDir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

func identify(obj source.Object) (source.Type, ref, error) {
	kind, err := source.KindOf(obj)
	if err != nil {
		return source.Type{}, ref{}, err
	}
	t, err := source.TypeOf(kind)
	name := ref{kind, source.KeyOf(obj)}
	if err == nil && obj.GetName() == "" {
		err = fmt.Errorf("write %s: it has no name", kind)
	}
	return t, name, err
}

// path returns where an object's file is.
func (w *Writer) path(name ref, suffix string) string {
	parts := []string{strings.ToLower(string(name.kind)), name.key.Name}
	if name.key.Namespace != "" {
		parts = slices.Insert(parts, 1, name.key.Namespace)
	}
	return filepath.Join(w.opts.StatusDir, filepath.Base(strings.Join(parts, "_")+suffix))
}

// fieldsOf returns the object as its JSON has it.
func fieldsOf(obj source.Object) (map[string]any, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return fields, decoder.Decode(&fields)
}

// write replaces a file, unless it says the same already.
func (w *Writer) write(path string, t source.Type, fields map[string]any) error {
	fields["apiVersion"], fields["kind"] = t.Version.String(), string(t.Kind)
	text, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	data, err := yaml.JSONToYAML(text)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return durable.Replace(path, func(f io.Writer) error {
		_, err := f.Write(data)
		return err
	})
}

// find returns ErrNotFound if no file defines the object. It waits for a folder
// that is being worked on, where a file may be missing for a moment; and takes
// the object for there while something can't be read.
func (w *Writer) find(ctx context.Context, name ref) error {
	for range 20 {
		resting, err := w.refresh()
		if err != nil {
			return err
		}
		v := newView(&w.objects, &w.status)
		if _, ok := v.objects[name]; ok && !w.objects.holds(name) || resting && len(v.problems) > 0 {
			return nil
		}
		if resting {
			return source.ErrNotFound
		}
		if !wait(ctx, settle/4) {
			return ctx.Err()
		}
	}
	return source.ErrNotFound
}

// refresh reads both folders and, if nobody is working on the objects, removes
// the status of those that are gone. Returns whether nobody is.
func (w *Writer) refresh() (resting bool, err error) {
	now := time.Now()
	unsettled, err := w.objects.refresh(now)
	if err != nil {
		return false, err
	}
	if err := w.opts.makeStatusDir(); err != nil {
		return false, err
	}
	if _, err := w.status.refresh(now); err != nil {
		return false, err
	}
	if unsettled || isYoung(w.objects.changed, now) {
		return false, nil
	}
	return true, w.prune()
}

func (w *Writer) prune() error {
	v := newView(&w.objects, &w.status)
	if len(v.problems) > 0 {
		return nil
	}
	var errs []error
	for name, c := range w.status.files {
		gone := func(d document) bool { _, ok := v.objects[d.ref]; return !ok }
		if strings.HasSuffix(name, statusSuffix) && !slices.ContainsFunc(c.docs, func(d document) bool { return !gone(d) }) {
			errs = append(errs, os.Remove(filepath.Join(w.opts.StatusDir, name)))
		}
	}
	return errors.Join(errs...)
}
