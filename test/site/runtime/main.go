// SPDX-License-Identifier: Apache-2.0

// Command runtime plays the container runtime on a node of a site: it calls CNI
// plugins through libcni, as containerd does; and the programs of pods that only
// have to be there.
//
//	runtime add|del|check CONF CONTAINER NETNS INTERFACE
//	runtime echo ADDRESS
//	runtime load RATE SECONDS ADDRESS
//	runtime stream MILLISECONDS ADDRESS...
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containernetworking/cni/libcni"
)

const (
	binDir   = "/opt/cni/bin"
	cacheDir = "/var/lib/cni"
	// portsEnv has the pod's host ports, as the capability portMappings has them.
	portsEnv = "PORT_MAPPINGS"
)

func main() {
	answer, err := run(os.Args[1:])
	if err == nil && answer != nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run runs a verb and returns its answer, if it has one.
func run(args []string) (any, error) {
	switch {
	case len(args) > 2 && args[0] == "stream":
		every, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, err
		}
		return nil, stream(time.Duration(every)*time.Millisecond, args[2:])
	case len(args) == 5:
		return call(args[0], args[1], &libcni.RuntimeConf{ContainerID: args[2], NetNS: args[3], IfName: args[4], Args: podArgs(args[2])})
	case len(args) == 2 && args[0] == "echo":
		return nil, echo(args[1])
	case len(args) == 4 && args[0] == "load":
		rate, err := strconv.Atoi(args[1])
		if err != nil {
			return nil, err
		}
		seconds, err := strconv.Atoi(args[2])
		if err != nil {
			return nil, err
		}
		return load(rate, seconds, args[3]), nil
	}
	return nil, errors.New("usage: runtime add|del|check|echo|load|stream ARGUMENTS")
}

// podArgs is what a runtime tells plugins of a pod.
func podArgs(name string) [][2]string {
	return [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", name}}
}

func library() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{binDir}, cacheDir, nil)
}

// call calls one verb of a configuration list.
func call(verb, conf string, rt *libcni.RuntimeConf) (any, error) {
	list, err := libcni.ConfListFromFile(conf)
	if err != nil {
		return nil, err
	}
	if text := os.Getenv(portsEnv); text != "" {
		rt.CapabilityArgs = map[string]any{"portMappings": json.RawMessage(text)}
	}
	cni, ctx := library(), context.Background()
	switch verb {
	case "add":
		return cni.AddNetworkList(ctx, list, rt)
	case "del":
		return nil, cni.DelNetworkList(ctx, list, rt)
	case "check":
		return nil, cni.CheckNetworkList(ctx, list, rt)
	}
	return nil, fmt.Errorf("verb %q is not add, del or check", verb)
}
