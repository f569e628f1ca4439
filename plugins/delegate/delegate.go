// SPDX-License-Identifier: Apache-2.0

// Package delegate runs another plugin's program for a verb of the network that
// this plugin was called for. It is the part of the CNI library that does so,
// without what that links into a binary which starts for each pod.
package delegate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Add runs a plugin's ADD with this plugin's configuration and returns its result.
func Add(plugin string, stdin []byte) (*types100.Result, error) {
	out, err := call("ADD", plugin, stdin)
	if err != nil {
		return nil, err
	}
	result, err := parse(out, stdin)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", plugin, err)
	}
	return result, nil
}

// Run runs another verb of a plugin's: DEL, CHECK, STATUS or GC.
func Run(verb, plugin string, stdin []byte) error {
	_, err := call(verb, plugin, stdin)
	return err
}

// parse reads a result; one without a version, as old plugins print, is of the configuration's.
func parse(out, stdin []byte) (*types100.Result, error) {
	var conf struct {
		CNIVersion string `json:"cniVersion"`
	}
	result := map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(stdin, &conf), json.Unmarshal(out, &result)); err != nil {
		return nil, err
	}
	if result["cniVersion"] == nil {
		result["cniVersion"], _ = json.Marshal(conf.CNIVersion) // a string always can be
		var err error
		if out, err = json.Marshal(result); err != nil {
			return nil, err
		}
	}
	versioned, err := create.CreateFromBytes(out)
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(versioned)
}

// call runs the plugin and returns what it printed, or the error that it printed.
func call(verb, plugin string, stdin []byte) ([]byte, error) {
	path, err := find(plugin, os.Getenv("CNI_PATH"))
	if err != nil {
		return nil, err
	}
	var stdout bytes.Buffer
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, os.Stderr
	err = cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		told := &types.Error{}
		if json.Unmarshal(stdout.Bytes(), told) == nil && (told.Code != 0 || told.Msg != "") {
			return nil, told
		}
		return nil, fmt.Errorf("run %s %s: %w: %s", plugin, verb, err, bytes.TrimSpace(stdout.Bytes()))
	}
	if err != nil {
		return nil, fmt.Errorf("run %s %s: %w", plugin, verb, err)
	}
	return stdout.Bytes(), nil
}

// find looks for a plugin in the runtime's list of directories.
func find(plugin, dirs string) (string, error) {
	if plugin == "" || strings.ContainsRune(plugin, os.PathSeparator) {
		return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("plugin %q is not a name", plugin), "")
	}
	for _, dir := range filepath.SplitList(dirs) {
		path := filepath.Join(dir, plugin)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("plugin %s is not in CNI_PATH", plugin), dirs)
}
