// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/patchbay-net/patchbay/pkg/source"
)

// settle is how long a file must have rested before what is wrong with it is
// believed, and before its time stamp is: two writes within one tick of the
// clock bear the same.
const settle = 150 * time.Millisecond

// statusSuffix ends the names of files that hold an object's status alone. No
// object's own name has an underscore.
const statusSuffix = "_status.yaml"

// maxSize bounds what is read of one file.
const maxSize = 64 << 20

// folder is the YAML files of a directory, read again only when they change.
type folder struct {
	dir     string
	kinds   []source.Kind       // to read; nil: all
	ours    bool                // written by Writers alone, which replace files whole
	changed time.Time           // when a file last came or went
	files   map[string]*content // by file name
}

// content is what was read of a file.
type content struct {
	stamp stamp
	young bool       // read so soon after a change that the stamp can't be relied on
	gone  time.Time  // when the file was first missed; it may be on its way back
	docs  []document // as they stand in the file
	kept  []document // the last good version of objects that are wrong now
}

// stamp tells whether a file has changed.
type stamp struct {
	size  int64
	inode uint64
	time  time.Time
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), time: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

// good returns the objects of the file that are in force.
func (c *content) good() []document {
	var out []document
	for _, doc := range c.docs {
		if doc.err == nil {
			out = append(out, doc)
		}
	}
	return append(out, c.kept...)
}

// refresh looks at the folder. It returns unsettled if some file changed so
// lately that it must be looked at again after settle. If the folder itself
// can't be read, what was known of it stays.
func (f *folder) refresh(now time.Time) (unsettled bool, err error) {
	info, err := os.Stat(f.dir)
	if err != nil {
		return false, err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return false, err
	}
	f.changed = info.ModTime()
	files := make(map[string]*content, len(entries))
	for name, r := range f.readAll(entries, now) {
		before, c, err := f.files[name], r.content, r.err
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotFile) {
			continue
		}
		if err != nil {
			c = unreadable(filepath.Join(f.dir, name), before, err)
		}
		if c == nil { // being written; what was known stays
			unsettled = true
			if before != nil {
				files[name] = before
			}
			continue
		}
		unsettled = unsettled || c.young
		files[name] = c
	}
	unsettled = f.hold(files, now) || unsettled
	f.files = files
	return unsettled, nil
}

// result is what came of reading a file.
type result struct {
	content *content
	err     error
}

// readAll reads the object files among entries, as many at a time as there are
// CPUs: at the start all of them are parsed.
func (f *folder) readAll(entries []fs.DirEntry, now time.Time) map[string]result {
	var mu sync.Mutex
	results := make(map[string]result, len(entries))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, entry := range entries {
		name := entry.Name()
		if !isObjectFile(name) {
			continue
		}
		group.Go(func() error {
			c, err := f.read(name, f.files[name], now)
			mu.Lock()
			defer mu.Unlock()
			results[name] = result{c, err}
			return nil
		})
	}
	_ = group.Wait() // each file has its own error
	return results
}

// hold keeps files that were there a moment ago: some editors remove a file and
// make it anew. Returns whether there are any.
func (f *folder) hold(files map[string]*content, now time.Time) bool {
	if f.ours {
		return false
	}
	held := false
	for name, before := range f.files {
		if files[name] != nil {
			continue
		}
		c := *before
		if c.gone.IsZero() {
			c.gone = now
		}
		if now.Sub(c.gone) < settle {
			files[name] = &c
			held = true
		}
	}
	return held
}

// holds tells whether a file that isn't there now defines the object.
func (f *folder) holds(name ref) bool {
	for _, c := range f.files {
		if !c.gone.IsZero() && slices.ContainsFunc(c.good(), func(d document) bool { return d.ref == name }) {
			return true
		}
	}
	return false
}

// isYoung tells whether what was changed then may change still. A time in the
// future is another machine's clock and tells nothing.
func isYoung(changed, now time.Time) bool {
	age := now.Sub(changed)
	return age >= 0 && age < settle
}

func isObjectFile(name string) bool {
	ext := filepath.Ext(name)
	return !strings.HasPrefix(name, ".") && (ext == ".yaml" || ext == ".yml")
}

var errNotFile = errors.New("not a regular file")

// read returns the file's content, the same as before if it hasn't changed, or
// nil if it is wrong and may still be in the writing.
func (f *folder) read(name string, before *content, now time.Time) (*content, error) {
	path := filepath.Join(f.dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNotFile
	}
	s := stampOf(info)
	if before != nil && before.stamp == s && !before.young && before.gone.IsZero() {
		return before, nil
	}
	if s.size > maxSize {
		return nil, fmt.Errorf("%d bytes are more than %d", s.size, maxSize)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	age := now.Sub(s.time)
	decode := decodeObject
	if strings.HasSuffix(name, statusSuffix) {
		decode = decodeStatus
	}
	c := &content{stamp: s, young: age >= 0 && age < settle, docs: parse(path, data, f.kinds, decode)}
	if c.young && slices.ContainsFunc(c.docs, func(d document) bool { return d.err != nil }) {
		return nil, nil
	}
	c.keep(before)
	return c, nil
}

// unreadable is the content of a file of which nothing can be had.
func unreadable(path string, before *content, err error) *content {
	c := &content{docs: []document{{origin: path, err: err}}}
	c.keep(before)
	return c
}

// keep holds on to the objects of the content before if something of the file
// is wrong now: what was meant by it can't be told from what is left of it.
func (c *content) keep(before *content) {
	wrong := slices.ContainsFunc(c.docs, func(d document) bool { return d.err != nil })
	if before == nil || !wrong {
		return
	}
	have := map[ref]bool{}
	for _, doc := range c.docs {
		have[doc.ref] = have[doc.ref] || doc.err == nil
	}
	for _, doc := range before.good() {
		if !have[doc.ref] {
			have[doc.ref] = true
			c.kept = append(c.kept, doc)
		}
	}
}

// names returns the files' names in order.
func (f *folder) names() []string {
	return slices.Sorted(maps.Keys(f.files))
}
